"""What a pretraining knows of itself while it runs, measured on clips of held-out videos."""

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.pretrain import PretrainPlan
from jepawm.data.clips.sampler import ClipRequest
from jepawm.data.clips.sources import ClipSource
from jepawm.device import autocast
from jepawm.nn.spectrum import effective_rank
from jepawm.pretraining.masks import MaskStrategy, TokenGrid, realised
from jepawm.pretraining.masks.motion import motion_energy
from jepawm.pretraining.objective import Pretraining
from jepawm.seeding import stream_generator
from jepawm.training.diagnostics import COLLAPSED_STD, FIT_FRACTION, collapse, linear_probe_r2
from jepawm.training.held_out_clips import HeldOutClips, held_out_clips
from jepawm.training.loop import Metrics
from jepawm.training.pretrain_state import PretrainState
from jepawm.training.pretrain_step import normalised, show_groups
from jepawm.types import ClipBatch, ClipGroup

# Clips that are encoded at once.
_AT_ONCE = 32


class PretrainDiagnostics:
    """Measures a pretraining on held-out clips; a hook of the loop.

    Args:
        config: Of the pretraining.
        stage: Number of the stage, whose masks are drawn.
        clips: Held out.
    """

    def __init__(self, config: PretrainPlan, stage: int, clips: Sequence[HeldOutClips]) -> None:
        self.config, self.stage, self.clips = config, stage, clips

    @classmethod
    def wanted(
        cls, config: PretrainPlan, stage: int, sources: tuple[ClipSource, ...], request: ClipRequest
    ) -> "PretrainDiagnostics | None":
        """What a stage measures; None where no video is held out."""
        clips = held_out_clips(config, sources, request, config.train.diagnostics_clips)
        return cls(config, stage, clips) if clips else None

    @torch.no_grad()
    def __call__(self, state: PretrainState) -> Metrics:
        """Measures.

        Returns:
            `diagnostics/loss` on held-out clips; the numbers of `source_statistics`, of the teacher's tokens of the
            last time; and of each mask set `diagnostics/masks/<group>.<set>/hidden_motion`, the share of the pixels'
            change that is hidden.
        """
        module, strategy = state.module, state.masks[self.stage]
        module.eval()
        shares: dict[str, list[float]] = {}
        losses, weights = [], []
        for clips in self.clips:
            for number, part in enumerate(_parts(len(clips.pixels))):
                loss, hidden = self._masked(module, strategy, clips, part, number)
                losses.append(loss)
                weights.append(len(clips.pixels[part]))
                for at, share in enumerate(hidden):
                    if share is not None:
                        shares.setdefault(f"diagnostics/masks/{clips.index}.{at}/hidden_motion", []).append(share)
        metrics: Metrics = {name: float(np.mean(values)) for name, values in shares.items()}
        metrics["diagnostics/loss"] = float(np.average(losses, weights=weights))
        # Tokens of one time, so that clips of all lengths have equally many.
        latents_SF = torch.cat([self._last_tokens(module, clips) for clips in self.clips])
        metrics.update(source_statistics(latents_SF, self.clips))
        module.train()
        return metrics

    def _masked(
        self, module: Pretraining, strategy: MaskStrategy, clips: HeldOutClips, part: slice, number: int
    ) -> tuple[float, list[float | None]]:
        """The loss of some clips under masks that are the same at each measurement, and the motion that these hide."""
        pixels = clips.pixels[part]
        count = len(pixels)
        group = ClipGroup(clips.index, count, slice(0, count), pixels, np.arange(count))
        device, precision = next(module.parameters()).device, self.config.train.precision
        (shown,) = show_groups(
            module,
            ClipBatch(number, (group,)),
            strategy,
            generator=lambda index: stream_generator(self.config.seed, "held_out_masks", number, index),
            drawn={clips.index: number},
            precision=precision,
            device=device,
            workers=1,
        )
        with autocast(precision, device):
            loss = float(module([shown.masked]).prediction)
        grid: TokenGrid = shown.masked.grid
        motion = motion_energy(torch.from_numpy(pixels), grid).to(device)
        return loss, [each.hidden_motion for each in realised(shown.masked.mask_sets, grid, motion)]

    def _last_tokens(self, module: Pretraining, clips: HeldOutClips) -> Tensor:
        """`[S,F]` the teacher's tokens of each clip's last time, side by side."""
        device, found = next(module.parameters()).device, []
        for part in _parts(len(clips.pixels)):
            shown = normalised(module, torch.from_numpy(clips.pixels[part]).to(device))
            grid = module.token_grid(*shown.shape[2:])
            with autocast(self.config.train.precision, device):
                tokens = module.targets(shown)[..., -module.encoder.latent_dim :]
            found.append(tokens[:, -grid.num_places :].flatten(1).float().cpu())
        return torch.cat(found)


def source_statistics(latents_SF: Float[Tensor, "S F"], clips: Sequence[HeldOutClips]) -> Metrics:
    """Are latents alive inside each source, and what can be read from them.

    Over the clips of all sources together, the difference between the looks of two sources would be the largest by far:
    a living encoder would have an effective rank near 1, and one that only tells sources apart would look alive.

    Args:
        latents_SF: `[S,F]` latents of the clips, group after group.
        clips: The groups.

    Returns:
        `diagnostics/latent_std_mean` and `_min` over features, of the source where each is smallest;
        `diagnostics/effective_rank` of the latents less the mean of their source; `diagnostics/collapsed`, 1 where the
        mean deviation is small in any source; `diagnostics/probe_r2/<name>` where episodes have simulator states, the
        mean over the sources that have it. With several sources also each one's own numbers,
        `diagnostics/sources/<number>/...`, by their place in the configuration. Sources with fewer than two clips are
        left out.
    """
    sources = np.concatenate([each.sources for each in clips])
    videos = np.concatenate([each.videos for each in clips])
    states = {
        name: np.concatenate([each.states.get(name, np.full(len(each.videos), np.nan)) for each in clips])
        for name in dict.fromkeys(name for each in clips for name in each.states)
    }
    found: dict[int, dict[str, float]] = {}
    centred = []
    for number in np.unique(sources).tolist():
        rows = np.flatnonzero(sources == number)
        if len(rows) < 2:
            continue
        own_SF = latents_SF[torch.from_numpy(rows)]
        centred.append(own_SF - own_SF.mean(dim=0))
        found[number] = collapse(own_SF) | _probes(
            own_SF, {name: values[rows] for name, values in states.items()}, videos[rows]
        )
    if not found:
        return {}
    metrics: Metrics = {
        f"diagnostics/{name}": min(own[f"diagnostics/{name}"] for own in found.values())
        for name in ("latent_std_mean", "latent_std_min")
    }
    metrics["diagnostics/effective_rank"] = effective_rank(torch.cat(centred))
    metrics["diagnostics/collapsed"] = float(metrics["diagnostics/latent_std_mean"] < COLLAPSED_STD)
    for name in (f"diagnostics/probe_r2/{name}" for name in states):
        read = [own[name] for own in found.values() if name in own]
        if read:
            # NaN where no clip of a source moves the number.
            moving = [r2 for r2 in read if np.isfinite(r2)]
            metrics[name] = float(np.mean(moving)) if moving else float("nan")
    if len(found) > 1:
        for number, own in found.items():
            metrics |= {name.replace("diagnostics/", f"diagnostics/sources/{number}/"): own[name] for name in own}
    return metrics


def _probes(latents_SF: Tensor, states: dict[str, np.ndarray], videos: np.ndarray) -> dict[str, float]:
    """How much of each state a linear probe reads, on clips of other videos than those that it was fitted to."""
    found = {}
    for name, values in states.items():
        known = np.isfinite(values)
        # Where the clips of a video end and those of another begin.
        ends = np.flatnonzero(np.diff(videos[known])) + 1
        if not len(ends):
            continue
        num_fitted = int(ends[np.abs(ends - FIT_FRACTION * known.sum()).argmin()])
        target = torch.from_numpy(values[known])[:, None]
        (r2,) = linear_probe_r2(latents_SF[torch.from_numpy(known)], target, num_fitted=num_fitted)
        found[f"diagnostics/probe_r2/{name}"] = r2
    return found


def _parts(count: int) -> list[slice]:
    """Parts of at least two clips."""
    number = max(1, count // _AT_ONCE)
    ends = [count * at // number for at in range(number + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(ends)]
