"""What a pretraining knows of itself while it runs, measured on clips of held-out videos."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepawm.config.clips import AugmentConfig
from jepawm.config.pretrain import PretrainPlan
from jepawm.data import EpisodeDataset
from jepawm.data.clips.frames import clip_frames, frame_step
from jepawm.data.clips.mixture import ClipMixture
from jepawm.data.clips.sampler import ClipRequest
from jepawm.data.clips.sources import ClipSource, DatasetClips
from jepawm.device import autocast
from jepawm.pretraining.masks import MaskStrategy, TokenGrid, realised
from jepawm.pretraining.masks.motion import motion_energy
from jepawm.pretraining.objective import Pretraining
from jepawm.seeding import stream_generator, stream_seed
from jepawm.training.augment import augment, draw_augmentation
from jepawm.training.diagnostics import COLLAPSED_STD, collapse, linear_probe_r2
from jepawm.training.loop import Metrics
from jepawm.training.pretrain_state import PretrainState
from jepawm.training.pretrain_step import normalised, show_groups
from jepawm.types import ClipBatch, ClipGroup

# Clips that are encoded at once.
_AT_ONCE = 32


@dataclass(frozen=True)
class HeldOutClips:
    """Clips of held-out videos that have as many frames as each other.

    Attributes:
        index: Place of the frame count among those of the sources, see `ClipGroup`.
        pixels: `[B,T,C,Y,X]` uint8, the largest square in the middle at the size of the stage.
        states: State name -> `[B]` the simulator's numbers at the last frame, NaN where the episode has none.
    """

    index: int
    pixels: np.ndarray
    states: dict[str, np.ndarray]


def held_out_clips(
    config: PretrainPlan, sources: tuple[ClipSource, ...], request: ClipRequest, num_clips: int
) -> list[HeldOutClips]:
    """Clips of the held-out videos of all sources, the same for the same seed.

    Args:
        config: Of the clips.
        sources: Opened, in the order of the configuration.
        request: Frames and size of the stage.
        num_clips: In all; sources have shares by the number of their held-out videos.

    Returns:
        One entry for each frame count; those with fewer than two clips are left out. Empty where no video is held out.
    """
    clips, seed = config.clips, config.seed
    sampler = ClipMixture(clips, request, sources=sources).sampler
    held_out = [source.split(clips.held_out_fraction, seed)[1] for source in sources]
    total = sum(map(len, held_out))
    found: dict[int, list[tuple[np.ndarray, dict[str, float]]]] = {}
    for number, (source, videos) in enumerate(zip(sources, held_out, strict=True)):
        frames = int(sampler.num_frames_of[number])
        rng = np.random.default_rng(stream_seed(seed, "held_out_clips", number))
        order = rng.permutation(videos)
        count = round(num_clips * len(videos) / total) if total else 0
        # Clips of one video stand together, so that a probe is measured on other videos than it was fitted to.
        for video in sorted(order[at % len(order)] for at in range(count)):
            step = frame_step(clips.all_sources[number], clips, float(source.fps_each[video]))
            chosen = clip_frames(int(source.num_frames_each[video]), step, frames, rng.random())
            pixels = torch.from_numpy(source.read(int(video), chosen))
            height, width = pixels.shape[-2:]
            whole = draw_augmentation(
                AugmentConfig(crop=False, flip=False), height=height, width=width, seed=seed, train_step=0, slot=0
            )
            shown = augment(pixels, whole, request.image_size).numpy()
            index = sampler.group_frames.index(frames)
            found.setdefault(index, []).append((shown, _state(source, int(video), int(chosen[-1]))))
    return [_stacked(index, clips_of) for index, clips_of in sorted(found.items()) if len(clips_of) > 1]


def _state(source: ClipSource, video: int, frame: int) -> dict[str, float]:
    """The simulator's numbers at a frame, by name."""
    if not isinstance(source, DatasetClips):
        return {}
    dataset = EpisodeDataset(source.path)
    spec = dataset.spec.sim_state
    if spec is None:
        return {}
    names = spec.names or tuple(str(number) for number in range(spec.dim))
    values = dataset.read_column("sim_state", int(dataset.episode_ids[video]))[frame]
    return dict(zip(names, values.tolist(), strict=True))


def _stacked(index: int, clips: Sequence[tuple[np.ndarray, dict[str, float]]]) -> HeldOutClips:
    names = dict.fromkeys(name for _, state in clips for name in state)
    states = {name: np.array([state.get(name, np.nan) for _, state in clips]) for name in names}
    return HeldOutClips(index, np.stack([pixels for pixels, _ in clips]), states)


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
            `diagnostics/loss` on held-out clips; of the teacher's tokens of the last time `diagnostics/latent_std_mean`
            and `_min` over features, `diagnostics/effective_rank`, `diagnostics/collapsed`, and
            `diagnostics/probe_r2/<name>` where episodes have simulator states; and of each mask set
            `diagnostics/masks/<group>.<set>/hidden_motion`, the share of the pixels' change that is hidden. With clips
            of several lengths, latents are those of the largest group.
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
        largest = max(self.clips, key=lambda each: len(each.pixels))
        latents_SF = self._last_tokens(module, largest)
        metrics.update(collapse(latents_SF))
        metrics["diagnostics/collapsed"] = float(metrics["diagnostics/latent_std_mean"] < COLLAPSED_STD)
        for name, values in largest.states.items():
            known = np.isfinite(values)
            target = torch.from_numpy(values[known])[:, None]
            if known.sum() > 1:
                metrics[f"diagnostics/probe_r2/{name}"] = linear_probe_r2(latents_SF[torch.from_numpy(known)], target)[
                    0
                ]
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


def _parts(count: int) -> list[slice]:
    """Parts of at least two clips."""
    number = max(1, count // _AT_ONCE)
    ends = [count * at // number for at in range(number + 1)]
    return [slice(low, high) for low, high in itertools.pairwise(ends)]
