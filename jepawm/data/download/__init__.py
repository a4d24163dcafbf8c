"""Public datasets: which there are, and how they are fetched, verified and unpacked."""
