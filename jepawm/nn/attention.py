"""Multi-head attention: full, or causal over blocks of tokens that belong to one frame."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.nn.rotary import RotaryTable, rotate

# On a CPU in bfloat16: attention scores that one piece of work makes, so that they stay in the cache, and scores that
# may be kept for a backward pass.
_SCORES_AT_ONCE = 1 << 22
_SCORES_KEPT = 1 << 26

KeyValue = tuple[Tensor, Tensor]
"""Keys and values of tokens, `[B,heads,L,h]` each, keys already rotated."""


class Attention(nn.Module):
    """Multi-head self-attention.

    Args:
        dim: Token width `D`.
        num_heads: Heads.
        head_dim: Width of a head; None: `dim / num_heads`.
        qkv_bias: Whether queries, keys and values have a bias.
        dropout: Of attention weights and of the output, while training.
    """

    def __init__(
        self, dim: int, num_heads: int, *, head_dim: int | None = None, qkv_bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_dim = dim // num_heads if head_dim is None else head_dim
        self.inner_dim = self.num_heads * self.head_dim
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * self.inner_dim, bias=qkv_bias)
        self.proj = nn.Linear(self.inner_dim, dim)

    def forward(
        self,
        x_BLD: Float[Tensor, "B L D"],
        *,
        rotary: RotaryTable | None = None,
        tokens_per_frame: int | None = None,
        num_queries: int | None = None,
    ) -> Float[Tensor, "B M D"]:
        """Attends.

        Args:
            x_BLD: `[B,L,D]` tokens.
            rotary: Angles of the `L` tokens, or None.
            tokens_per_frame: Tokens of one frame; a token then sees its own frame and those before. None: all tokens.
            num_queries: Compute the outputs of the last so many tokens only; None: of all.

        Returns:
            `[B,M,D]` with `M = num_queries` or `L`.
        """
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
        """Attends to the given tokens and to those before them, whose keys and values are known already.

        Args:
            x_BLD: `[B,L,D]` tokens behind the past ones.
            past: Keys and values of the tokens before; None: there are none.
            rotary: Angles of the `L` tokens, or None.
            tokens_per_frame: See `forward`.
            num_queries: See `forward`.

        Returns:
            `[B,M,D]`, and the keys and values of all tokens so far.
        """
        L = x_BLD.shape[1]
        M = L if num_queries is None else num_queries
        if M == L:
            q, k, v = self._heads(self.qkv(x_BLD), 3)
        else:
            weight, bias, n = self.qkv.weight, self.qkv.bias, self.inner_dim
            (q,) = self._heads(F.linear(x_BLD[:, L - M :], weight[:n], None if bias is None else bias[:n]), 1)
            k, v = self._heads(F.linear(x_BLD, weight[n:], None if bias is None else bias[n:]), 2)
        if rotary is not None:
            q = rotate(q, rotary if M == L else rotary.rows(slice(L - M, L)))
            k = rotate(k, rotary)
        if past is not None:
            k, v = torch.cat([past[0], k], dim=2), torch.cat([past[1], v], dim=2)
        dropout = self.dropout if self.training else 0.0
        if tokens_per_frame is None:
            out = attend(q, k, v, dropout=dropout)
        else:
            out = frame_causal_attention(q, k, v, tokens_per_frame=tokens_per_frame, dropout=dropout)
        out = self.proj(out.transpose(1, 2).flatten(2))
        return F.dropout(out, self.dropout, self.training) if self.dropout else out, (k, v)

    def _heads(self, x: Tensor, count: int) -> tuple[Tensor, ...]:
        return x.unflatten(-1, (count, self.num_heads, self.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)


def attend(
    q: Float[Tensor, "B heads M h"],
    k: Float[Tensor, "B heads L h"],
    v: Float[Tensor, "B heads L h"],
    *,
    dropout: float = 0.0,
    causal: bool = False,
) -> Float[Tensor, "B heads M h"]:
    """Softmax attention of every query to every key, by the fastest exact kernel for these tensors.

    That is torch's fused one, but for bfloat16 on a CPU: there its two passes were measured 2 to 6 times slower than
    two matrix products and a softmax, as long as the scores fit the cache.

    Args:
        q: `[B,heads,M,h]`.
        k: `[B,heads,L,h]`.
        v: `[B,heads,L,h]`.
        dropout: Of the attention weights.
        causal: A query sees the keys up to its own place alone; `M = L`.
    """
    B, heads, M, _ = q.shape
    scores = heads * M * k.shape[2]
    keeps = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
    if k.shape[2] == 1 and not dropout and not keeps:
        # A single key has all the weight: the softmax is exactly 1.
        return v.expand(-1, -1, M, -1)
    fused = (
        q.device.type != "cpu"
        or q.dtype != torch.bfloat16
        or dropout > 0
        or scores > 2 * _SCORES_AT_ONCE
        or (keeps and B * scores > _SCORES_KEPT)
    )
    if fused:
        return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout, is_causal=causal)
    size = max(1, _SCORES_AT_ONCE // max(1, scores))
    if size >= B:
        return _unfused(q, k, v, causal)
    parts = zip(q.split(size), k.split(size), v.split(size), strict=True)
    return torch.cat([_unfused(*part, causal) for part in parts])


def _unfused(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, float("-inf"))
    return scores.softmax(dim=-1).to(v.dtype) @ v


def frame_causal_attention(
    q: Float[Tensor, "B heads M h"],
    k: Float[Tensor, "B heads L h"],
    v: Float[Tensor, "B heads L h"],
    *,
    tokens_per_frame: int,
    dropout: float = 0.0,
) -> Float[Tensor, "B heads M h"]:
    """Attention in which a token sees its own frame and all frames before it.

    No mask is ever built: the queries of one frame attend to a prefix of the keys, which every kernel does at full
    speed, and the upper triangle is not computed at all. With one token a frame this is ordinary causal attention.

    Args:
        q: `[B,heads,M,h]`, the last `M` of the `L` tokens; whole frames.
        k: `[B,heads,L,h]`.
        v: `[B,heads,L,h]`.
        tokens_per_frame: Tokens `S` of a frame; divides `M` and `L`.
        dropout: Of the attention weights.
    """
    M, L, S = q.shape[2], k.shape[2], tokens_per_frame
    if M == S:
        return attend(q, k, v, dropout=dropout)
    if S == 1 and M == L:
        return attend(q, k, v, dropout=dropout, causal=True)
    frames = []
    for start in range(0, M, S):
        seen = L - M + start + S
        frame = attend(q[:, :, start : start + S], k[:, :, :seen], v[:, :, :seen], dropout=dropout)
        frames.append(frame.transpose(1, 2))
    # Joined with the heads behind the tokens, as the projection wants them.
    return torch.cat(frames, dim=1).transpose(1, 2)
