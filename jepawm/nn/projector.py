"""The projector that LeWM puts behind its encoder and its predictor."""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.nn.batch_norm import GlobalBatchNorm


class Projector(nn.Module):
    """Linear, batch normalisation over all tokens of the global batch, GELU, linear.

    Args:
        in_dim: Input width.
        hidden_dim: Width between the layers.
        out_dim: Output width.
    """

    def __init__(self, in_dim: int, hidden_dim: int, out_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(in_dim, hidden_dim)
        self.norm = GlobalBatchNorm(hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, out_dim)

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead E"]:
        """`[...,in_dim]` to `[...,out_dim]`; every leading axis is part of the batch."""
        return self.fc2(F.gelu(self.norm(self.fc1(x))))
