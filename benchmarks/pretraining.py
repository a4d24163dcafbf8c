"""Claim: an update of a tiny pretraining is at least 1.3 times as fast as in the published arrangement of the work.

python benchmarks/pretraining.py

Both sides make the same update of the same weights on the same clips under the same masks: the loss and the gradients
are compared before anything is timed. The published arrangement is that of the released V-JEPA 2 code, written down
here with this package's weights: for every mask set all pixels are embedded again and then the kept tokens are encoded;
every block computes the angles of its positions for queries and keys and for time, row and column; the predictor sorts
its tokens by place, computes all of them in its last block, and takes the targets afterwards. Here pixels are embedded
once for all mask sets, angles are looked up in one table, nothing is sorted, and the predictor's last block computes
the targets alone. `auto` is the same at the precision that `train.precision auto` chooses, against float32.

The two take turns, and the ratios within a pair are what counts. Clips lie in memory. Writes results/pretraining.json.
"""

import argparse
import copy
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

# The repository instead of this folder, where `envs` would be a benchmark.
sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.pairs import paired_ratio
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.recipe_files import recipe_layers
from jepawm.config.yaml_io import resolve, to_dict
from jepawm.device import resolve_precision
from jepawm.evaluation.manifest import manifest
from jepawm.nn.transformer import Block
from jepawm.pretraining.masks import MaskSet, TokenGrid
from jepawm.pretraining.objective import MaskedClips, Pretraining
from jepawm.seeding import stream_generator
from jepawm.training.optim import schedule_
from jepawm.training.pretrain_state import PretrainState, fresh_pretrain_state
from jepawm.training.pretrain_step import PretrainUpdate, show_groups
from jepawm.types import ClipBatch, ClipGroup

RESULTS = Path(__file__).resolve().parent / "results" / "pretraining.json"
CPU = torch.device("cpu")
WANTED = 1.3


# -- the published arrangement -----------------------------------------------------------------------------------------


def turned(x_BHLd: Tensor, place_BHL: Tensor) -> Tensor:
    """Rotary embedding of one axis, with its angles computed here."""
    width = x_BHLd.shape[-1]
    omega = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float32) / (width / 2))
    angle = place_BHL[..., None] * omega
    # The frequencies lie side by side, as the checkpoints were trained.
    sine, cosine = (part.repeat(1, 1, 1, 2) for part in (angle.sin(), angle.cos()))
    even, odd = x_BHLd.unflatten(-1, (-1, 2)).unbind(-1)
    return x_BHLd * cosine + torch.stack([-odd, even], dim=-1).flatten(-2) * sine


def turned_by_place(x_BHLd: Tensor, index_BL: Tensor, grid: TokenGrid) -> Tensor:
    """Rotary embedding by time, row and column; what is left of a head stays."""
    each = 2 * (x_BHLd.shape[-1] // 3 // 2)
    index = index_BL[:, None].repeat(1, x_BHLd.shape[1], 1)
    time, place = index // grid.num_places, index % grid.num_places
    axes = (time, place // grid.columns, place % grid.columns)
    parts = [turned(x_BHLd[..., at * each : (at + 1) * each], axis.float()) for at, axis in enumerate(axes)]
    return torch.cat([*parts, x_BHLd[..., 3 * each :]], dim=-1)


def published_block(block: Block, x: Tensor, index_BL: Tensor, grid: TokenGrid) -> Tensor:
    attention = block.attn
    B, L, _ = x.shape
    qkv = attention.qkv(block.norm1(x)).reshape(B, L, 3, attention.num_heads, attention.head_dim)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    q, k = turned_by_place(q, index_BL, grid), turned_by_place(k, index_BL, grid)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(B, L, -1)
    x = x + attention.proj(out)
    return x + block.mlp(block.norm2(x))


def published_encoder(encoder: Any, clips: Tensor, grid: TokenGrid, keep_BL: Tensor | None) -> Tensor:
    x = encoder.patch_embed(clips).flatten(2).transpose(1, 2)
    index = torch.arange(grid.num_tokens).expand(len(x), -1)
    if keep_BL is not None:
        x, index = x.gather(1, keep_BL[:, :, None].expand(-1, -1, x.shape[-1])), keep_BL
    for block in encoder.blocks:
        x = published_block(block, x, index, grid)
    return encoder.norm(x)


def published_predictor(module: Pretraining, context: Tensor, masks: MaskSet, grid: TokenGrid) -> Tensor:
    predictor = module.predictor
    context = predictor.embed(context)
    masked = predictor.mask_tokens[0].expand(len(context), masks.target_BM.shape[1], -1)
    index = torch.cat([masks.context_BL, masks.target_BM], dim=1)
    order = index.argsort(dim=1)
    x = torch.cat([context, masked], dim=1)
    x = x.gather(1, order[:, :, None].expand(-1, -1, x.shape[-1]))
    index = index.gather(1, order)
    for block in predictor.blocks:
        x = published_block(block, x, index, grid)
    x = predictor.norm(x)
    x = x.gather(1, order.argsort(dim=1)[:, :, None].expand(-1, -1, x.shape[-1]))
    return predictor.proj(x[:, context.shape[1] :])


def published_loss(module: Pretraining, shown: MaskedClips) -> Tensor:
    clips, grid = shown.clips_BCTYX, shown.grid
    with torch.no_grad():
        targets = published_encoder(module.teacher.encoder, clips, grid, None)
        targets = F.layer_norm(targets, targets.shape[-1:])
    losses = []
    for masks in shown.mask_sets:
        context = published_encoder(module.encoder, clips, grid, masks.context_BL)
        predicted = published_predictor(module, context, masks, grid)
        target = targets.gather(1, masks.target_BM[:, :, None].expand(-1, -1, targets.shape[-1]))
        losses.append((predicted - target).abs().mean())
    return torch.stack(losses).mean()


class PublishedUpdate:
    """One update as the released code arranges it: AdamW over all tensors, then the moving average of all tensors."""

    def __init__(self, config: PretrainConfig, state: PretrainState) -> None:
        self.config, self.state = config, state
        settings = [{key: value for key, value in group.items() if key != "fused"} for group in groups_of(state)]
        self.optimizer = torch.optim.AdamW(settings, lr=config.optim.learning_rate, betas=config.optim.betas)

    def __call__(self, batch: ClipBatch) -> Tensor:
        state, config = self.state, self.config
        optim, first, steps = config.schedule_of(0)
        schedule_(self.optimizer, optim, state.train_step - first, steps)
        self.optimizer.zero_grad(set_to_none=True)
        (shown,) = shown_groups(config, state, batch)
        loss = published_loss(state.module, shown)
        loss.backward()
        self.optimizer.step()
        state.module.update_teacher(config.model.teacher.momentum_at(state.train_step, config.num_train_steps))
        return loss.detach()


def groups_of(state: PretrainState) -> list[dict[str, Any]]:
    kept = ("params", "weight_decay", "decayed", "rate_share")
    return [{key: group[key] for key in kept} for group in state.optimizer.param_groups]


# -- what is compared --------------------------------------------------------------------------------------------------


def shown_groups(config: PretrainConfig, state: PretrainState, batch: ClipBatch) -> list[MaskedClips]:
    """The masks that both sides train on."""
    shown = show_groups(
        state.module,
        batch,
        state.masks[0],
        generator=lambda group: stream_generator(config.seed, "masks", batch.train_step, group),
        drawn=state.drawn,
        precision="float32",
        device=CPU,
        workers=1,
    )
    return [each.masked for each in shown]


def clips_of(config: PretrainConfig) -> ClipBatch:
    """Random clips of the first stage."""
    stage = config.stages[0]
    shape = (stage.batch_size, stage.num_frames, 3, stage.image_size, stage.image_size)
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    group = ClipGroup(0, len(pixels), slice(0, len(pixels)), pixels, np.arange(len(pixels)))
    return ClipBatch(0, (group,))


def check_equal(config: PretrainConfig, state: PretrainState, batch: ClipBatch) -> dict[str, float]:
    """Loss and gradients of both sides on the same weights; raises where they differ by more than rounding."""
    shown = shown_groups(config, state, batch)
    parameters = [each for each in state.module.parameters() if each.requires_grad]
    losses = [state.module(shown).loss, published_loss(state.module, shown[0])]
    ours, theirs = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in losses)
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None]
    assert len(pairs) > len(parameters) // 2
    largest = max(float(a.abs().max()) for a, _ in pairs)
    apart = max(float((a - b).abs().max()) for a, b in pairs)
    own, other = (float(loss.detach()) for loss in losses)
    assert abs(own - other) < 1e-5 * own, (own, other)
    assert apart < 1e-4 * largest, (apart, largest)
    return {"loss": own, "largest_gradient": largest, "gradients_apart": apart}


def timed(config: PretrainConfig, update: Callable[[ClipBatch], Any], state: PretrainState) -> Callable[[], None]:
    """One more update, on the clips of the first."""
    batch = clips_of(config)

    def run() -> None:
        update(replace(batch, train_step=state.train_step))
        state.train_step += 1

    return run


def measure(config: PretrainConfig, rounds: int) -> dict[str, Any]:
    """Clips/s of both sides, and how many times faster ours is within a pair."""
    state = fresh_pretrain_state(config, CPU)
    state.module.train()
    equal = check_equal(config, state, clips_of(config))
    found: dict[str, Any] = {"equal": equal}
    sides: Sequence[tuple[str, str]] = (("float32", "float32"), ("auto", resolve_precision("auto", CPU)))
    for name, precision in sides:
        if name == "auto" and precision == "float32":
            found[name] = "this CPU does not multiply bfloat16 natively, so auto is float32"
            continue
        own, other = copy.deepcopy(state), copy.deepcopy(state)
        ours = replace(config, train=replace(config.train, precision=precision))
        mine = timed(config, PretrainUpdate(ours, own, 0, compute=own.module, device=CPU), own)
        published = timed(config, PublishedUpdate(config, other), other)
        mine(), published()
        row = paired_ratio(mine, published, rounds, name="published")
        clips = config.stages[0].batch_size
        row["clips_per_s"] = {side: 1e3 * clips / row[f"{side}_ms"] for side in ("ours", "published")}
        found[name] = row
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="pretrain/tiny")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    config, _ = resolve(PretrainConfig, recipe_layers(arguments.recipe))
    found = measure(config, arguments.rounds)
    report = manifest(
        command=" ".join(["python", "benchmarks/pretraining.py", *sys.argv[1:]]),
        recipe=arguments.recipe,
        model=to_dict(config.model),
        stage=to_dict(config.stages[0]),
        threads=torch.get_num_threads(),
        wanted={"published_over_ours": WANTED},
        **found,
    )
    print(json.dumps(found, indent=1))
    arguments.out.write_text(json.dumps(report, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
