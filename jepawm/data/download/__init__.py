"""Public datasets: their list, and how they are downloaded, verified and unpacked."""
