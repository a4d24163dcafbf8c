"""The other side of `predictor.py`, `planning.py` and `gpu/`: published equations, written down plainly.

It shares our weights, so that both sides compute the same numbers, and arranges the work as the published code does
(no line is theirs): one boolean mask over all pairs of tokens, the action's modulation repeated for every token, every
layer for every frame of the window, and in a plan one episode, whose windows are computed anew at every step. What the
published code does beside that (an extra unroll for logging after each iteration, actions encoded again at every step)
is left out.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.latent import Latent
from jepawm.nn.attention import Attention
from jepawm.nn.rotary import RotaryTable, frame_rotary_table, rotate
from jepawm.nn.transformer import AdaptiveBlock, Block
from jepawm.predictors import AdaLNPredictor, FeaturePredictor
from jepawm.world_model import WorldModel


def dense_attention(attn: Attention, x_BLD: Tensor, mask_LL: Tensor, rotary: RotaryTable | None) -> Tensor:
    """Attention of all tokens with a mask over all pairs."""
    q, k, v = attn.qkv(x_BLD).unflatten(-1, (3, attn.num_heads, attn.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)
    if rotary is not None:
        q, k = rotate(q, rotary), rotate(k, rotary)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask_LL)
    return attn.proj(out.transpose(1, 2).flatten(2))


class PlainPredictor(nn.Module):
    """The plain equations on our weights.

    Args:
        ours: The predictor whose weights are used.
        num_frames: Frames that the mask is made for.
    """

    def __init__(self, ours: AdaLNPredictor | FeaturePredictor, num_frames: int) -> None:
        super().__init__()
        self.ours = ours
        self.patches = ours.latents.num_patches
        frame = torch.arange(num_frames * self.patches) // self.patches
        self.register_buffer("mask", frame[:, None] >= frame[None, :])

    def forward(
        self, visual: Tensor, actions: Tensor, proprio: Tensor | None, *, last_only: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Successors of all frames of a window; `last_only` throws all but the last away."""
        plain = self.adaln if isinstance(self.ours, AdaLNPredictor) else self.feature
        visual, proprio = plain(visual, actions, proprio)
        if not last_only:
            return visual, proprio
        return visual[:, -1:], None if proprio is None else proprio[:, -1:]

    def adaln(self, visual: Tensor, actions: Tensor, proprio: Tensor | None) -> tuple[Tensor, Tensor | None]:
        net: Any = self.ours
        T, P = visual.shape[1], self.patches
        x = net.embed(visual)
        if proprio is not None:
            x = torch.cat([x, proprio], dim=-1)
        rotary = None
        if net.positions is not None:
            x = x + net.positions[:T]
        else:
            rotary = frame_rotary_table(net.head_dim, T, net.latents.grid, 0, net.pairing, visual.device)
        x = x.flatten(1, 2)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        condition = F.silu(net.action(actions))
        for block in net.blocks:
            x = plain_adaptive_block(block, x, block.modulation(condition).repeat_interleave(P, dim=1), mask, rotary)
        x = net.norm(x).unflatten(1, (T, P))
        proprio = None if proprio is None else x[..., net.embed_dim :].float()
        return net.project(x[..., : net.embed_dim]).float(), proprio

    def feature(self, visual: Tensor, actions: Tensor, proprio: Tensor | None) -> tuple[Tensor, Tensor | None]:
        net: Any = self.ours
        T, P = visual.shape[1], self.patches
        action = net.action(actions).repeat_interleave(P, dim=1).unflatten(1, (T, P))
        x = torch.cat([visual, action] if proprio is None else [visual, proprio, action], dim=-1).flatten(1, 2)
        mask = self.mask[: x.shape[1], : x.shape[1]]
        x = x + net.positions[:, : x.shape[1]]
        for block in net.blocks:
            x = plain_block(block, x, mask)
        x = net.norm(x).unflatten(1, (T, P)).float()
        end = net.latents.dim + net.latents.proprio_dim
        return x[..., : net.latents.dim], None if proprio is None else x[..., net.latents.dim : end]


def plain_adaptive_block(
    block: AdaptiveBlock, x: Tensor, modulation: Tensor, mask: Tensor, rotary: RotaryTable | None
) -> Tensor:
    """One block with a row of modulation for every token."""
    shift1, scale1, gate1, shift2, scale2, gate2 = modulation.chunk(6, dim=-1)
    x = x + gate1 * dense_attention(block.attn, block.norm1(x) * (1 + scale1) + shift1, mask, rotary)
    return x + gate2 * block.mlp(block.norm2(x) * (1 + scale2) + shift2)


def plain_block(block: Block, x: Tensor, mask: Tensor) -> Tensor:
    """One block without modulation."""
    x = x + dense_attention(block.attn, block.norm1(x), mask, None)
    return x + block.mlp(block.norm2(x))


class PlainUnroll:
    """Candidates of one episode, step after step, each from a window that is computed anew.

    Args:
        model: The world model whose weights are used.
        context: Latents `[1,1]` of the present.
    """

    def __init__(self, model: WorldModel, context: Latent) -> None:
        assert isinstance(model.predictor, AdaLNPredictor | FeaturePredictor)
        self.model = model
        self.context = context
        self.predictor = PlainPredictor(model.predictor, model.context_window).to(context.visual.device)

    def __call__(self, chunks_1NHA: Tensor) -> Latent:
        chunks = self.model.normalize_actions(chunks_1NHA[0])
        visual = self.context.visual.expand(len(chunks), -1, -1, -1)
        proprio = None
        if self.context.proprio is not None:
            proprio = self.context.proprio.expand(len(chunks), -1, -1, -1)
        for h in range(chunks.shape[1]):
            oldest = max(0, h + 1 - self.model.context_window)
            past = None if proprio is None else proprio[:, oldest:]
            next_visual, next_proprio = self.predictor(visual[:, oldest:], chunks[:, oldest : h + 1], past)
            visual = torch.cat([visual, next_visual[:, -1:]], dim=1)
            if proprio is not None and next_proprio is not None:
                proprio = torch.cat([proprio, next_proprio[:, -1:]], dim=1)
        return Latent(visual[None, :, 1:], None if proprio is None else proprio[None, :, 1:])
