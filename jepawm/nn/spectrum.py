"""How many dimensions latents fill."""

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(latents_SF: Float[Tensor, "S F"]) -> float:
    """Exponential of the entropy of the covariance's normalised eigenvalues: 1 (a line) to F (round).

    Reference: Roy and Vetterli 2007, The effective rank; as RankMe in Garrido et al. 2023, arXiv 2210.02885.
    """
    centred = (latents_SF - latents_SF.mean(dim=0)).double()
    # Both products have the same eigenvalues above zero; the smaller one is computed.
    product = centred.T @ centred if centred.shape[1] <= centred.shape[0] else centred @ centred.T
    eigenvalues = torch.linalg.eigvalsh(product).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-300)
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
    return float(entropy.exp())
