"""Pretraining: resumed = uninterrupted, parts = whole, one worker = two; stages, diagnostics, checkpoints."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from tiny_pretraining import SHARES, Kept, tensors_of, tiny
from two_workers import on_two_workers

from jepawm.config.clips import ClipSourceConfig
from jepawm.config.masking import LearnedMaskConfig, MaskConfig, MotionMaskConfig
from jepawm.config.pretrain import PretrainConfig, StageConfig
from jepawm.data import EpisodeDataset
from jepawm.data.clips.sources import ClipSource, open_source
from jepawm.errors import CheckpointError, ConfigError, DataError
from jepawm.nn.spectrum import effective_rank
from jepawm.training.held_out_clips import HeldOutClips, held_out_clips
from jepawm.training.pretrain import run_pretraining, stage_request
from jepawm.training.pretrain_diagnostics import PretrainDiagnostics, source_statistics
from jepawm.training.pretrain_state import (
    STATE_FILE,
    PretrainSnapshot,
    PretrainState,
    fresh_pretrain_state,
    restore_pretraining,
)
from jepawm.training.pretrain_step import parts_of, show_groups
from jepawm.training.schedules import learning_rate
from jepawm.types import ClipBatch, ClipGroup

CPU = torch.device("cpu")
CLIPS = tiny().clips
LEARNED = LearnedMaskConfig(sets=SHARES, hidden_dim=8)


def state_data(copy: PretrainSnapshot) -> dict[str, Any]:
    return {name: value for name, value in copy.data.items() if name != "seconds"}


@pytest.mark.parametrize("masks", [None, LEARNED], ids=["multiblock", "learned"])
@pytest.mark.parametrize("at", [2, 3, 5], ids=["inside the first stage", "between stages", "inside the second"])
def test_a_resumed_pretraining_is_an_uninterrupted_one(
    masks: MaskConfig | None, at: int, wall_dataset: EpisodeDataset, tmp_path: Path
) -> None:
    config = tiny(str(wall_dataset.path), **({} if masks is None else {"masks": masks}))
    whole, first = Kept(), Kept(stop_at=at)
    run_pretraining(config, whole.place)
    assert run_pretraining(config, first.place).train_step == (at if at != 3 else 6)
    # A stage ends with a checkpoint, whether or not anybody asked for one.
    first.copies[at].write(str(tmp_path / "checkpoint"))
    second = Kept(str(tmp_path / "checkpoint"))
    run_pretraining(config, second.place)
    expected, found = (state_data(kept.copies[6]) for kept in (whole, second))
    assert expected["drawn"] == found["drawn"] == {0: 3}
    ours, theirs = tensors_of(expected), tensors_of(found)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name
    timed = {"train/seconds", "train/clips_per_s", "train/data_wait_fraction"}
    for one, other in zip(whole.records[at:], second.records, strict=True):
        assert {key: one[key] for key in one.keys() - timed} == pytest.approx(
            {key: other[key] for key in other.keys() - timed}, rel=0, abs=0, nan_ok=True
        )


def test_stages_change_frames_pixels_and_rate_and_keep_the_rest(wall_dataset: EpisodeDataset) -> None:
    config = tiny(str(wall_dataset.path))
    assert [config.stage_at(step) for step in (0, 2, 3, 5, 6)] == [0, 0, 1, 1, 1]
    requests = [stage_request(config, stage) for stage in (0, 1)]
    assert [(each.num_frames, each.image_size, each.first_train_step) for each in requests] == [(4, 24, 0), (8, 32, 3)]
    kept = Kept()
    run_pretraining(config, kept.place)
    assert [record["train/stage"] for record in kept.records] == [1, 1, 1, 2, 2, 2]
    first, second = config.stages
    rates = [record["train/learning_rate"] for record in kept.records]
    schedules = [replace(config.optim, schedule=stage.schedule) for stage in (first, second)]
    assert rates == [learning_rate(each, step, 3) for each in schedules for step in range(3)]
    # One schedule over the whole run, where stages have none.
    plain = replace(config, stages=tuple(replace(stage, schedule=None) for stage in config.stages))
    assert plain.schedule_of(1) == (config.optim, 0, 6)
    # AdamW's moments go on: after the first update of stage 2 it has made four steps.
    steps = {int(each["step"]) for each in kept.copies[4].data["optimizer"]["state"].values()}
    assert steps == {4}


def test_parts_of_a_batch_give_the_update_of_the_whole(wall_dataset: EpisodeDataset) -> None:
    path = str(wall_dataset.path)
    sources = (ClipSourceConfig(path, weight=1.0), ClipSourceConfig(path, weight=1.0, num_frames=6))
    for masks in (None, LEARNED):
        config = tiny(path, **({} if masks is None else {"masks": masks}))
        config = replace(config, clips=replace(config.clips, sources=sources), stages=config.stages[:1])
        found = []
        for parts in (1, 2):
            kept = Kept()
            with mock.patch("jepawm.training.pretrain.fresh_pretrain_state", exact_state):
                run_pretraining(replace(config, train=replace(config.train, micro_batches=parts)), kept.place)
            found.append((tensors_of(kept.copies[3].data), kept.records))
        (one, records), (other, records_of_parts) = found
        moved = largest_change(config, one)
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, rtol=0, atol=ROUNDING * moved, msg=lambda text: text)
        for ours, theirs in zip(records, records_of_parts, strict=True):
            assert ours.keys() == theirs.keys()
            losses = [key for key in ours if key.startswith(("train/loss", "train/prediction"))]
            assert len(losses) >= 4
            for key in losses:
                assert ours[key] == pytest.approx(theirs[key], rel=ROUNDING), key


@pytest.mark.parametrize("parts", [1, 2])
def test_a_record_has_the_mean_over_the_steps_that_have_a_group(parts: int, wall_dataset: EpisodeDataset) -> None:
    path = str(wall_dataset.path)
    sources = (ClipSourceConfig(path, weight=1.0), ClipSourceConfig(path, weight=1.0, num_frames=6))
    config = tiny(path, stages=(replace(tiny().stages[0], num_train_steps=6, batch_size=2),))
    config = replace(config, clips=replace(config.clips, sources=sources))
    kept = {}
    for log_every in (1, 6):
        kept[log_every] = Kept()
        train = replace(config.train, log_every=log_every, micro_batches=parts, diagnostics_clips=0, checkpoint_every=6)
        run_pretraining(replace(config, train=train), kept[log_every].place)
    each, (together,) = kept[1].records, kept[6].records
    of_groups = {name for record in each for name in record if name.startswith(("train/prediction/", "train/masks/"))}
    assert {f"train/prediction/{group}.{number}" for group in (0, 1) for number in (0, 1)} < of_groups
    groups_of = {tuple(f"train/prediction/{group}.0" in record for group in (0, 1)) for record in each}
    assert {(True, False), (False, True)} <= groups_of, "each group is absent from a step"
    for name in of_groups:
        expected = np.mean([record[name] for record in each if name in record])
        # Six float32 numbers are added.
        assert together[name] == pytest.approx(expected, rel=6 * 2.0**-23), name


def test_clips_that_cannot_be_split_into_parts_are_refused(wall_dataset: EpisodeDataset) -> None:
    config = tiny(str(wall_dataset.path))
    state = fresh_pretrain_state(config, CPU)
    (clips,) = held_out_clips(config, opened(config), stage_request(config, 0), 6)
    shown = show_groups(
        state.module,
        ClipBatch(0, (ClipGroup(0, 6, slice(0, 6), clips.pixels, np.arange(6)),)),
        state.masks[0],
        generator=lambda group: torch.Generator().manual_seed(group),
        drawn={},
        precision="float32",
        device=CPU,
        workers=1,
    )
    assert [len(part[0].clips_BCTYX) for part in parts_of(shown, 3)] == [2, 2, 2]
    with pytest.raises(ConfigError, match=r"6 clips cannot be split into 4 equal parts"):
        parts_of(shown, 4)


# -- two workers -----------------------------------------------------------------------------------------------------

# Losses are float32, everything else here is float64. A sum of n float32 numbers in another order differs by less than
# n 2^-24 of the sum of their sizes; no sum of losses has more than 64 terms, and the gradients of a token's loss are
# signs times a weight that is rounded once.
ROUNDING = 64 * 2.0**-24


def exact_state(config: PretrainConfig, device: torch.device) -> PretrainState:
    """A state in float64 with plain gradient descent; AdamW divides by roots of tiny moments and magnifies rounding."""
    state = fresh_pretrain_state(config, device)
    state.module.double()
    parameters = [each for each in state.module.parameters() if each.requires_grad]
    state.optimizer = torch.optim.SGD(parameters, lr=0.1)
    if state.mask_optimizer is not None:
        state.mask_optimizer = torch.optim.SGD([part for each in state.masks for part in each.parameters()], lr=0.1)
    return state


def largest_change(config: PretrainConfig, found: dict[str, torch.Tensor]) -> float:
    before = tensors_of({"module": exact_state(config, CPU).module.state_dict()})
    return max(float((found[name] - value).abs().max()) for name, value in before.items())


def arms(path: str) -> dict[str, PretrainConfig]:
    config = tiny(path)
    config = replace(config, stages=config.stages[:1])
    # Clips of two lengths: workers have other shares of a group, or none.
    sources = (ClipSourceConfig(path, weight=1.0), ClipSourceConfig(path, weight=1.0, num_frames=6))
    return {
        "multiblock": config,
        "two lengths": replace(config, clips=replace(config.clips, sources=sources)),
        "two lengths in parts": replace(
            config, clips=replace(config.clips, sources=sources), train=replace(config.train, micro_batches=2)
        ),
        "motion": replace(config, masks=MotionMaskConfig(sets=SHARES)),
        "learned": replace(config, masks=LEARNED),
    }


def trained(path: str, rank: int, world_size: int) -> dict[str, Any]:
    found = {}
    for name, config in arms(path).items():
        kept = Kept(rank=rank, world_size=world_size)
        with mock.patch("jepawm.training.pretrain.fresh_pretrain_state", exact_state):
            run_pretraining(config, kept.place)
        found[name] = tensors_of({key: kept.copies[3].data[key] for key in ("module", "masks")})
        found[name + " records"] = kept.records
    return found


def worker(rank: int, path: str) -> dict[str, Any]:
    return trained(path, rank, 2)


def test_two_workers_are_one(tmp_path: Path, wall_dataset: EpisodeDataset) -> None:
    path = str(wall_dataset.path)
    first, second = on_two_workers(worker, tmp_path, path)
    one = trained(path, 0, 1)
    for name, config in arms(path).items():
        moved = largest_change(config, one[name])
        assert moved > 1e-3
        for key, value in one[name].items():
            torch.testing.assert_close(first[name][key], second[name][key], rtol=0, atol=0)
            torch.testing.assert_close(first[name][key], value, rtol=0, atol=ROUNDING * moved, msg=f"{name}: {key}")
        assert second[name + " records"] == []
        for ours, theirs in zip(first[name + " records"], one[name + " records"], strict=True):
            # Masks are those of the whole batch, and learned ones compare losses with the mean of all workers. Evenness
            # is of a worker's own clips; groups of which it has none are not in its records.
            own = [key for key in theirs if key.startswith("train/masks/") and key in ours and "entropy" not in key]
            assert len(own) > 5
            for key in own:
                if "scorer_loss" not in key:
                    assert ours[key] == pytest.approx(theirs[key], rel=ROUNDING), key
        last = [found[name + " records"][-1]["diagnostics/loss"] for found in (first, one)]
        assert last[0] == pytest.approx(last[1], rel=ROUNDING)


# -- masks that are trained along ------------------------------------------------------------------------------------


def test_the_scorer_of_learned_masks_trains_by_its_own_optimizer(wall_dataset: EpisodeDataset) -> None:
    config = tiny(str(wall_dataset.path), masks=LEARNED)
    state = fresh_pretrain_state(config, CPU)
    # Both stages have one strategy, whose weights are there once.
    assert state.masks[0] is state.masks[1]
    kept = Kept()
    run_pretraining(config, kept.place)
    before, after = tensors_of(state.as_data()["masks"]), tensors_of(kept.copies[6].data["masks"])
    assert all(not torch.equal(value, after[name]) for name, value in before.items())
    named = {"scorer_loss", "scorer_coefficient", "scorer_entropy", "scorer_mean_loss"}
    assert all({f"train/masks/{name}" for name in named} <= record.keys() for record in kept.records)
    # The curriculum leads from easy to hard places.
    coefficients = [record["train/masks/scorer_coefficient"] for record in kept.records]
    assert coefficients == pytest.approx([-1 + 2 * step / 6 for step in range(6)])


# -- diagnostics -----------------------------------------------------------------------------------------------------


def opened(config: PretrainConfig) -> tuple[ClipSource, ...]:
    return tuple(open_source(each, config.clips) for each in config.clips.all_sources)


def measured(config: PretrainConfig, change: Any = None) -> dict[str, float]:
    state = fresh_pretrain_state(config, CPU)
    if change is not None:
        change(state)
    diagnose = PretrainDiagnostics.wanted(config, 0, opened(config), stage_request(config, 0))
    assert diagnose is not None
    found = diagnose(state)
    assert state.module.training
    assert found == pytest.approx(diagnose(state), rel=0, abs=0, nan_ok=True)
    return found


def test_diagnostics_tell_a_collapsed_encoder_from_a_living_one(wall_dataset: EpisodeDataset) -> None:
    def collapse(state: PretrainState) -> None:
        torch.nn.init.zeros_(state.module.teacher.encoder.patch_embed.weight)

    config = tiny(str(wall_dataset.path), train=replace(tiny().train, diagnostics_clips=40))
    alive, dead = measured(config), measured(config, collapse)
    names = wall_dataset.spec.sim_state.names
    assert {f"diagnostics/probe_r2/{name}" for name in names} <= alive.keys()
    assert alive["diagnostics/collapsed"] == 0.0
    assert dead["diagnostics/collapsed"] == 1.0
    assert dead["diagnostics/latent_std_mean"] < 1e-6 < alive["diagnostics/latent_std_mean"]
    assert 0 < alive["diagnostics/masks/0.0/hidden_motion"] < 1
    # A pretraining without held-out videos measures nothing.
    none = replace(config, clips=replace(config.clips, held_out_fraction=0.0))
    assert PretrainDiagnostics.wanted(none, 0, opened(none), stage_request(none, 0)) is None


def test_held_out_clips_are_of_held_out_episodes_with_the_state_of_their_last_frame(
    wall_dataset: EpisodeDataset,
) -> None:
    config = tiny(str(wall_dataset.path))
    (source,) = sources = opened(config)
    (clips,) = held_out_clips(config, sources, replace(stage_request(config, 0), image_size=64), 8)
    assert clips.pixels.shape == (8, 4, 3, 64, 64)
    _, held_out = source.split(0.1, config.seed)
    assert clips.sources.tolist() == [0] * 8
    assert set(clips.videos.tolist()) == set(held_out.tolist())
    episodes = [wall_dataset.read_episode(int(wall_dataset.episode_ids[video])) for video in held_out]
    names = list(clips.states)
    for number, pixels in enumerate(clips.pixels):
        state = np.array([clips.states[name][number] for name in names])
        last = np.moveaxis(pixels[-1], 0, -1)
        assert any(
            np.array_equal(episode.pixels[frame], last) and np.allclose(episode.sim_state[frame], state)
            for episode in episodes
            for frame in range(episode.num_frames)
        )


def clips_of(sources: list[int], videos: list[int], index: int = 0, **states: list[float]) -> HeldOutClips:
    pixels = np.zeros((len(videos), 4, 3, 8, 8), np.uint8)
    return HeldOutClips(
        index, np.array(sources), np.array(videos), pixels, {name: np.array(each) for name, each in states.items()}
    )


def test_a_collapse_inside_a_source_shows_and_a_difference_of_sources_is_none() -> None:
    normal = torch.randn(120, 16, generator=torch.Generator().manual_seed(0))
    # Three sources that look different, in two groups of lengths.
    groups = [clips_of([0] * 40 + [1] * 40, [0] * 80), clips_of([2] * 40, [0] * 40, index=1)]
    far = torch.arange(3).repeat_interleave(40)[:, None] * 1000.0
    found = source_statistics(normal + far, groups)
    assert effective_rank(normal + far) < 1.1
    assert found["diagnostics/effective_rank"] > 12
    assert found["diagnostics/latent_std_mean"] == pytest.approx(1, abs=0.1)
    assert found["diagnostics/collapsed"] == 0.0
    assert {f"diagnostics/sources/{number}/effective_rank" for number in range(3)} <= found.keys()
    # An encoder that tells sources apart and nothing else.
    dead = source_statistics(far.expand(120, 16).clone(), groups)
    assert dead["diagnostics/collapsed"] == 1.0
    assert dead["diagnostics/latent_std_mean"] < 1e-3
    assert dead["diagnostics/effective_rank"] == pytest.approx(1)
    # One that is dead in the second source alone, and one that has a single direction there.
    in_second = torch.arange(120) // 40 == 1
    partly = source_statistics(torch.where(in_second[:, None], 0.0, normal) + far, groups)
    assert partly["diagnostics/collapsed"] == 1.0
    assert partly["diagnostics/sources/0/latent_std_mean"] == found["diagnostics/sources/0/latent_std_mean"]
    line = source_statistics(torch.where(in_second[:, None], normal[:, :1], normal), groups)
    assert line["diagnostics/sources/1/effective_rank"] == pytest.approx(1, abs=1e-3)
    assert line["diagnostics/sources/0/effective_rank"] > 10
    # A single source has its numbers under their plain names alone.
    alone = source_statistics(normal[:40], [clips_of([0] * 40, [0] * 40)])
    assert not [name for name in alone if "sources" in name]
    assert source_statistics(normal[:1], [clips_of([0], [0])]) == {}


def test_a_probe_is_measured_on_other_videos_than_it_was_fitted_to() -> None:
    videos = [0] * 5 + [1] * 3 + [2] * 4
    latents = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
    state = latents[:, 0].tolist()
    # Four fifths of 12 clips end inside the last video; the cut lies before it.
    with mock.patch("jepawm.training.pretrain_diagnostics.linear_probe_r2", return_value=[0.5]) as probe:
        found = source_statistics(latents, [clips_of([0] * 12, videos, x=state)])
        assert probe.call_args.kwargs == {"num_fitted": 8}
        assert found["diagnostics/probe_r2/x"] == 0.5
        # Episodes without a state are left out before the cut.
        source_statistics(latents, [clips_of([0] * 12, videos, x=[float("nan")] * 5 + state[5:])])
        assert probe.call_args.kwargs == {"num_fitted": 3}
    assert source_statistics(latents, [clips_of([0] * 12, videos, x=state)])["diagnostics/probe_r2/x"] > 0.99
    assert "diagnostics/probe_r2/x" not in source_statistics(latents, [clips_of([0] * 12, [7] * 12, x=state)])


def test_a_held_out_video_that_cannot_be_decoded_is_named_or_left_out(
    wall_dataset: EpisodeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    config = tiny(str(wall_dataset.path), clips=replace(tiny(str(wall_dataset.path)).clips, held_out_fraction=0.3))
    (source,) = opened(config)
    held_out, read = source.split(0.3, config.seed)[1], source.read

    def damaged(video: int, frames: np.ndarray) -> np.ndarray:
        if video == held_out[0]:
            raise DataError(f"video {video} is damaged")
        return read(video, frames)

    count = 2 * len(held_out)
    (whole,) = held_out_clips(config, (source,), stage_request(config, 0), count)
    with mock.patch.object(source, "read", damaged):
        with pytest.raises(DataError, match=f"video {held_out[0]} is damaged"):
            held_out_clips(config, (source,), stage_request(config, 0), count)
        skipping = replace(config, clips=replace(config.clips, unreadable="skip"))
        (rest,) = held_out_clips(skipping, (source,), stage_request(config, 0), count)
    assert f"video {held_out[0]} is damaged" in caplog.text
    left = whole.videos != held_out[0]
    assert 0 < left.sum() < count
    np.testing.assert_array_equal(rest.pixels, whole.pixels[left])
    np.testing.assert_array_equal(rest.videos, whole.videos[left])


# -- errors ----------------------------------------------------------------------------------------------------------


def test_a_checkpoint_that_is_damaged_or_of_another_encoder_is_refused(tmp_path: Path) -> None:
    config = tiny("unused")
    state = fresh_pretrain_state(config, CPU)
    folder = tmp_path / "step-00000000"
    PretrainSnapshot.of(state).write(str(folder))
    wider = replace(config.model, encoder=replace(config.model.encoder, latent_dim=48))
    with pytest.raises(CheckpointError, match="does not fit its configuration"):
        restore_pretraining(str(folder), fresh_pretrain_state(replace(config, model=wider), CPU))
    # Where the run's folder is gone, its file system may be too.
    gone = tmp_path / "gone" / "checkpoints" / "step-00000000"
    with pytest.raises(CheckpointError, match="a folder above it is gone"):
        PretrainSnapshot.of(state).write(str(gone))
    assert not (tmp_path / "gone").exists()
    (folder / STATE_FILE).write_bytes(b"no checkpoint")
    with pytest.raises(CheckpointError, match="damaged or not one of ours"):
        restore_pretraining(str(folder), state)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"stages": ()}, "stages is empty"),
        ({"stages": (StageConfig(batch_size=6),), "train": replace(tiny().train, micro_batches=4)}, "use 4"),
        (
            {
                "clips": replace(CLIPS, clips_per_video=2),
                "stages": (StageConfig(4), StageConfig(4, batch_size=3)),
            },
            r"stages\.1\.batch_size must be a multiple of clips\.clips_per_video \(2\), found 3",
        ),
        (
            {"clips": replace(CLIPS, sources=(ClipSourceConfig("folder", num_frames=5),))},
            r"folder: clips\.sources\.num_frames must be even .* found 5",
        ),
        (
            {
                "clips": replace(
                    tiny().clips, sources=tuple(ClipSourceConfig("a", num_frames=n) for n in (2, None, 8))
                ),
                "stages": (StageConfig(8), StageConfig(4)),
            },
            r"stages\.1: clips have 3 lengths \(2, 4, 8 frames\).*num_mask_tokens 2; use 3",
        ),
        ({"optim": replace(tiny().optim, ema_decay=0.9)}, "model.teacher is its moving average"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tiny("unused", **changes)
    with pytest.raises(ConfigError, match="must be even"):
        StageConfig(num_frames=5)
