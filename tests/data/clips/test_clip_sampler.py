"""Which clips make up a batch: a function of seed and train step, whatever the number of workers."""

import dataclasses

import numpy as np
import pytest

from jepawm.config.clips import AugmentConfig, ClipsConfig, ClipSourceConfig
from jepawm.data.clips.sampler import ClipRequest, ClipSampler
from jepawm.errors import ConfigError, DataError

REQUEST = ClipRequest(8, 32, 12, seed=5, first_train_step=10, last_train_step=1000)


def weighted(*weights, **settings):
    return ClipsConfig(sources=tuple(ClipSourceConfig(f"folder_{w}", weight=w) for w in weights), **settings)


def test_without_weights_each_video_comes_once_an_epoch():
    sampler = ClipSampler(ClipsConfig(paths=("a", "b")), [7, 5], REQUEST)
    one = sampler.draws(10)
    assert sorted(zip(one.sources.tolist(), one.videos.tolist(), strict=True)) == [
        *((0, video) for video in range(7)),
        *((1, video) for video in range(5)),
    ]
    other = sampler.draws(11)
    assert (one.videos.tolist(), one.sources.tolist()) != (other.videos.tolist(), other.sources.tolist())


def test_a_batch_may_be_longer_than_several_epochs():
    sampler = ClipSampler(ClipsConfig(paths=("a",)), [5], REQUEST)
    drawn = np.concatenate([sampler.draws(step).videos for step in range(10, 15)])
    for epoch in drawn.reshape(12, 5).tolist():
        assert sorted(epoch) == list(range(5))


def test_weights_are_shares_of_the_draws():
    request = dataclasses.replace(REQUEST, batch_size=2000)
    sampler = ClipSampler(weighted(3.0, 1.0), [10, 10_000], request)
    draws = [sampler.draws(step) for step in range(10, 20)]
    sources = np.concatenate([each.sources for each in draws])
    # 20,000 draws: five standard deviations of the share are 0.015.
    assert abs(np.mean(sources == 0) - 0.75) < 0.016
    videos = np.concatenate([each.videos for each in draws])[sources == 0]
    # Each of the ten videos gets a tenth of 15,000 draws: five standard deviations are 184.
    assert np.abs(np.bincount(videos, minlength=10) - len(videos) / 10).max() < 190


@pytest.mark.parametrize("config", [ClipsConfig(paths=("a", "b")), weighted(1.0, 2.0)])
def test_a_batch_depends_on_seed_and_train_step_alone(config):
    batches = {step: ClipSampler(config, [30, 40], REQUEST).draws(step) for step in (10, 500, 17)}
    sampler = ClipSampler(config, [30, 40], REQUEST)
    for step in (17, 10, 500):
        again = sampler.draws(step)
        np.testing.assert_array_equal(again.videos, batches[step].videos)
        np.testing.assert_array_equal(again.sources, batches[step].sources)
    other = ClipSampler(config, [30, 40], dataclasses.replace(REQUEST, seed=6)).draws(17)
    assert other.videos.tolist() != batches[17].videos.tolist()


def test_a_stage_of_another_size_begins_an_epoch():
    later = dataclasses.replace(REQUEST, first_train_step=1000, last_train_step=1100, batch_size=5)
    sampler = ClipSampler(ClipsConfig(paths=("a",)), [10], later)
    drawn = np.concatenate([sampler.draws(step).videos for step in (1000, 1001)])
    assert sorted(drawn.tolist()) == list(range(10))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_the_shares_of_the_workers_are_the_batch(world_size):
    sources = (
        ClipSourceConfig("a", weight=1, num_frames=4),
        ClipSourceConfig("b", weight=2),
        ClipSourceConfig("c", weight=1),
    )
    sampler = ClipSampler(ClipsConfig(sources=sources), [9, 9, 9], REQUEST)
    assert sampler.group_frames == (4, 8)
    for step in range(10, 30):
        draws = sampler.draws(step)
        workers = [sampler.shares(draws, rank=rank, world_size=world_size) for rank in range(world_size)]
        for groups in zip(*workers, strict=True):
            slots = groups[0].slots
            expected = np.flatnonzero((draws.sources == 0) == (groups[0].index == 0))
            assert slots.tolist() == expected.tolist()
            assert np.concatenate([slots[group.rows] for group in groups]).tolist() == slots.tolist()
            sizes = [group.rows.stop - group.rows.start for group in groups]
            assert max(sizes) - min(sizes) <= 1
        assert sum(len(group.slots) for group in workers[0]) == 12
        for groups in workers:
            assert sum(group.rows.stop - group.rows.start for group in groups) == 12 // world_size


def test_clips_of_one_video_follow_each_other():
    sampler = ClipSampler(ClipsConfig(paths=("a",), clips_per_video=3), [50], REQUEST)
    draws = sampler.draws(10)
    assert draws.parts.tolist() == [0, 1, 2] * 4
    assert draws.videos.reshape(4, 3).tolist() == [[video] * 3 for video in draws.videos[::3].tolist()]
    assert len(np.unique(draws.videos)) == 4


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ConfigError, match="there are no sources"):
        ClipSampler(ClipsConfig(), [], REQUEST)
    with pytest.raises(DataError, match="a: there are no videos"):
        ClipSampler(ClipsConfig(paths=("a",)), [0], REQUEST)
    with pytest.raises(ConfigError, match=r"a batch of 12 clips .* 5 each"):
        ClipSampler(ClipsConfig(paths=("a",), clips_per_video=5), [3], REQUEST)
    sampler = ClipSampler(ClipsConfig(paths=("a",)), [3], REQUEST)
    for step in (9, 1000):
        with pytest.raises(DataError, match=f"train step {step} does not belong to the stage"):
            sampler.draws(step)
    with pytest.raises(ConfigError, match=r"12 clips cannot be split over 5 workers; .* 10 or 15"):
        sampler.shares(sampler.draws(10), rank=0, world_size=5)
    with pytest.raises(ConfigError, match=r"rank 2 does not lie in \[0, 2\)"):
        sampler.shares(sampler.draws(10), rank=2, world_size=2)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: weighted(1.0, None), "folder_None has none; give all of them one, or none"),
        (lambda: ClipsConfig(paths=("a",), sources=(ClipSourceConfig("b", weight=1),)), "a has none"),
        (lambda: ClipsConfig(fps=4, frame_step=2), "one of clips.fps and clips.frame_step"),
        (lambda: ClipsConfig(fps=None), "one of clips.fps and clips.frame_step"),
        (lambda: ClipsConfig(held_out_fraction=1.0), r"clips.held_out_fraction must lie in \[0, 1\)"),
        (lambda: ClipsConfig(clips_per_video=0), "clips.clips_per_video must be above 0"),
        (lambda: ClipsConfig(loader="stream", num_threads=3), "clips.num_threads has no meaning"),
        (lambda: ClipSourceConfig("a", weight=0), "clips.sources.weight must be above 0"),
        (lambda: ClipSourceConfig("a", fps=4, frame_step=2), "leave one out"),
        (lambda: ClipSourceConfig(""), "clips.sources.path is empty"),
        (lambda: AugmentConfig(crop_scale=(0.0, 1.0)), "clips.augment.crop_scale"),
        (lambda: AugmentConfig(crop_scale=(0.9, 0.3)), "clips.augment.crop_scale"),
        (lambda: AugmentConfig(crop_aspect=(0.0, 1.0)), "clips.augment.crop_aspect"),
        (lambda: dataclasses.replace(REQUEST, batch_size=0), "at least one frame"),
        (lambda: dataclasses.replace(REQUEST, last_train_step=10), "a stage needs train steps"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(make, words):
    with pytest.raises(ConfigError, match=words):
        make()
