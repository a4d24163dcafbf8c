"""Pre-norm transformer blocks, plain and conditioned by adaptive layer normalisation."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.nn.attention import Attention, KeyValue
from jepawm.nn.rotary import RotaryTable


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        dim: Token width.
        hidden_dim: Width between the layers.
        dropout: After each layer, while training.
    """

    def __init__(self, dim: int, hidden_dim: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)
        self.dropout = dropout

    def forward(self, x: Float[Tensor, "*lead D"]) -> Float[Tensor, "*lead D"]:
        """`[...,D]` to `[...,D]`."""
        hidden = F.gelu(self.fc1(x))
        if not self.dropout:
            return self.fc2(hidden)
        return F.dropout(self.fc2(F.dropout(hidden, self.dropout, self.training)), self.dropout, self.training)


class Block(nn.Module):
    """`x + Attention(LN(x))`, then `x + FeedForward(LN(x))`.

    Args:
        dim: Token width.
        num_heads: Attention heads.
        hidden_dim: Width inside the feed-forward.
        head_dim: Width of a head; None: `dim / num_heads`.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Of attention and feed-forward, while training.
        eps: Of the layer normalisations.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, head_dim=head_dim, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = FeedForward(dim, hidden_dim, dropout=dropout)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        *,
        rotary: RotaryTable | None = None,
        tokens_per_frame: int | None = None,
        num_queries: int | None = None,
    ) -> Float[Tensor, "B M D"]:
        """One block; see `Attention.forward` for the arguments. Returns the last `num_queries` tokens, or all."""
        return self.extend(x_BLD, None, rotary=rotary, tokens_per_frame=tokens_per_frame, num_queries=num_queries)[0]

    def extend(
        self,
        x_BLD: Float[Tensor, "B L D"],
        past: KeyValue | None,
        *,
        rotary: RotaryTable | None = None,
        tokens_per_frame: int | None = None,
        num_queries: int | None = None,
    ) -> tuple[Float[Tensor, "B M D"], KeyValue]:
        """One block for tokens behind others; see `Attention.extend`."""
        attended, known = self.attn.extend(
            self.norm1(x_BLD), past, rotary=rotary, tokens_per_frame=tokens_per_frame, num_queries=num_queries
        )
        x = x_BLD[:, x_BLD.shape[1] - attended.shape[1] :] + attended
        return x + self.mlp(self.norm2(x)), known


class AdaptiveBlock(nn.Module):
    """A block whose normalisations are shifted, scaled and gated by a condition of each frame.

    The six modulation vectors stay one row a frame and are broadcast over the frame's tokens; the normalisation's own
    scale and offset are folded into them, so that each token is touched once.

    Args:
        dim: Token width `D`.
        num_heads: Attention heads.
        hidden_dim: Width inside the feed-forward.
        head_dim: Width of a head; None: `dim / num_heads`.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Of attention and feed-forward, while training.
        condition_dim: Width of the condition; None: `dim`.
        eps: Of the layer normalisations.

    Reference: Peebles and Xie 2023, DiT, arXiv 2212.09748; with an affine normalisation in Terver et al. 2025,
        JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        hidden_dim: int,
        *,
        head_dim: int | None = None,
        qkv_bias: bool = True,
        dropout: float = 0.0,
        condition_dim: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, head_dim=head_dim, qkv_bias=qkv_bias, dropout=dropout)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = FeedForward(dim, hidden_dim, dropout=dropout)
        self.modulation = nn.Linear(condition_dim or dim, 6 * dim)

    def forward(
        self,
        x_BTSD: Float[Tensor, "B T S D"],
        condition_BTC: Float[Tensor, "B T C"],
        *,
        rotary: RotaryTable | None = None,
        last_only: bool = False,
    ) -> Float[Tensor, "B U S D"]:
        """One block, causal over frames.

        Args:
            x_BTSD: `[B,T,S,D]` tokens, `S` a frame.
            condition_BTC: `[B,T,C]` condition of each frame, after its activation.
            rotary: Angles of the `T * S` tokens, or None.
            last_only: Compute the last frame alone.

        Returns:
            `[B,U,S,D]`, with `U = 1` if `last_only` else `T`.
        """
        return self.extend(x_BTSD, self.modulate(condition_BTC), None, rotary=rotary, last_only=last_only)[0]

    def extend(
        self,
        x_BTSD: Float[Tensor, "B T S D"],
        modulation_BT6D: Float[Tensor, "B T 6 D"],
        past: KeyValue | None,
        *,
        rotary: RotaryTable | None = None,
        last_only: bool = False,
    ) -> tuple[Float[Tensor, "B U S D"], KeyValue]:
        """One block for frames behind others.

        Args:
            x_BTSD: `[B,T,S,D]` tokens of the frames behind the past ones.
            modulation_BT6D: What `modulate` made of their conditions.
            past: Keys and values of the frames before; None: there are none.
            rotary: Angles of the `T * S` tokens, or None.
            last_only: Compute the last frame alone.

        Returns:
            `[B,U,S,D]`, with `U = 1` if `last_only` else `T`, and the keys and values of all frames so far.
        """
        T, S = x_BTSD.shape[1:3]
        U = 1 if last_only else T
        parts = modulation_BT6D.unsqueeze(3).unbind(2)
        x = _modulated(x_BTSD, self.norm1, parts[0], parts[1])
        attended, known = self.attn.extend(x.flatten(1, 2), past, rotary=rotary, tokens_per_frame=S, num_queries=U * S)
        attn_gate, mlp_scale, mlp_shift, mlp_gate = (part[:, T - U :] for part in parts[2:])
        x = torch.addcmul(x_BTSD[:, T - U :], attn_gate, attended.unflatten(1, (U, S)))
        hidden = self.mlp(_modulated(x, self.norm2, mlp_scale, mlp_shift))
        return torch.addcmul(x, mlp_gate, hidden), known

    def modulate(self, condition_BTC: Float[Tensor, "B T C"]) -> Float[Tensor, "B T 6 D"]:
        """Scale, shift and gate of attention and then of the feed-forward, from each frame's condition alone.

        Args:
            condition_BTC: `[B,T,C]` condition of each frame, after its activation.
        """
        parts = self.modulation(condition_BTC).chunk(6, dim=-1)
        attn_shift, attn_scale, attn_gate, mlp_shift, mlp_scale, mlp_gate = parts
        attn, mlp = _folded(self.norm1, attn_scale, attn_shift), _folded(self.norm2, mlp_scale, mlp_shift)
        return torch.stack([*attn, attn_gate, *mlp, mlp_gate], dim=2)


def _folded(norm: nn.LayerNorm, scale: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """`(n * w + b) * (1 + scale) + shift` as `n * scale' + shift'`."""
    one = 1 + scale
    return one * norm.weight, torch.addcmul(shift, one, norm.bias)


def _modulated(x: Tensor, norm: nn.LayerNorm, scale: Tensor, shift: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(x, norm.normalized_shape, eps=norm.eps).to(scale.dtype), scale)


def init_transformer_(module: nn.Module, blocks: nn.ModuleList, *, modulation_std: float | None = None) -> None:
    """Truncated normal weights of 0.02, zero biases, and output layers that shrink with depth.

    Args:
        module: All its linear layers are set.
        blocks: The blocks in order; the outputs of block `i` are divided by `sqrt(2 * (i + 1))`.
        modulation_std: Standard deviation of adaptive blocks' modulation weights; 0 makes every block the identity at
            the start (AdaLN-zero).
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        for depth, block in enumerate(blocks, start=1):
            if not isinstance(block, Block | AdaptiveBlock):
                raise TypeError(f"expected transformer blocks, found {type(block).__name__}")
            block.attn.proj.weight /= (2.0 * depth) ** 0.5
            block.mlp.fc2.weight /= (2.0 * depth) ** 0.5
            if isinstance(block, AdaptiveBlock) and modulation_std is not None:
                if modulation_std:
                    nn.init.trunc_normal_(block.modulation.weight, std=modulation_std)
                else:
                    nn.init.zeros_(block.modulation.weight)
