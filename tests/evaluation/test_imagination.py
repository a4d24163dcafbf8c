"""What a model imagined of an episode that was recorded, and the pictures that show it."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from imagining import FRAMESKIP, model_of

from jepawm.data import EpisodeDataset
from jepawm.data.video import read_video
from jepawm.errors import DataError
from jepawm.evaluation.imagination import imagine
from jepawm.evaluation.latent_pictures import DrawnByHead, NearestFrames, encode_visual
from jepawm.evaluation.play import Animation
from jepawm.evaluation.rollout_videos import FRAMES_PER_S, write_videos
from jepawm.world_model import WorldModel

MODEL_STEPS = 6


@pytest.fixture(scope="module")
def model(wall_dataset: EpisodeDataset) -> WorldModel:
    return model_of(wall_dataset)


def recording(dataset: EpisodeDataset, sizes: list[int]) -> Animation:
    """The first six chunks of an episode, as plans of these sizes."""
    episode = dataset.read_episode(int(dataset.episode_ids[0]))
    chunks = episode.actions[: MODEL_STEPS * FRAMESKIP].reshape(MODEL_STEPS, FRAMESKIP, 2)
    env_steps = MODEL_STEPS * FRAMESKIP + 1
    return Animation(
        rollout=episode.pixels[:env_steps],
        goal=episode.pixels[-1],
        costs=[np.zeros(1)] * len(sizes),
        chunks=np.split(chunks, np.cumsum(sizes)[:-1]),
        proprio=episode.proprio[:env_steps],
    )


class Kept:
    """Keeps the latents that it is asked to show."""

    about = "kept"

    def __init__(self) -> None:
        self.latents: list[torch.Tensor] = []

    def of(self, visual_MPD: torch.Tensor) -> np.ndarray:
        self.latents.append(visual_MPD)
        return np.zeros((len(visual_MPD), 1, 1, 3), np.uint8)


@torch.no_grad()
def test_each_plan_is_imagined_from_what_was_seen_when_it_was_made(
    wall_dataset: EpisodeDataset, model: WorldModel
) -> None:
    item = recording(wall_dataset, [1, 3, 2])
    kept = Kept()
    found = imagine(item, model, kept)
    planned, from_start = kept.latents
    assert item.proprio is not None
    pixels = torch.from_numpy(item.rollout[::FRAMESKIP]).movedim(-1, 1)[None]
    seen = model.encode(pixels, torch.from_numpy(item.proprio[::FRAMESKIP])[None])
    chunks = torch.from_numpy(np.concatenate(item.chunks)).reshape(1, MODEL_STEPS, -1)
    torch.testing.assert_close(from_start[:1], seen.visual[0, :1])
    torch.testing.assert_close(from_start[1:], model.unroll(seen[:, :1], chunks).visual[0])
    # The second plan began after one chunk, with two frames seen; the third after four, with the last two of five.
    torch.testing.assert_close(planned[1:2], model.unroll(seen[:, :1], chunks[:, :1]).visual[0])
    second = model.unroll(seen[:, :2], chunks[:, 1:4], chunks[:, :1]).visual[0]
    torch.testing.assert_close(planned[2:5], second)
    third = model.unroll(seen[:, 3:5], chunks[:, 4:], chunks[:, 3:4]).visual[0]
    torch.testing.assert_close(planned[5:], third)
    goal = encode_visual(model, torch.from_numpy(item.goal).movedim(-1, 0)[None, None])[0, 0]
    expected = (planned - goal).square().flatten(1).mean(dim=1).numpy()
    np.testing.assert_allclose(found.distance_planned, expected, rtol=1e-5)
    np.testing.assert_allclose(found.distance_seen[0], expected[0], rtol=1e-5)
    assert len(found.distance_seen) == len(found.distance_from_start) == MODEL_STEPS + 1


def test_one_plan_without_replans_is_both_imaginations(wall_dataset: EpisodeDataset, model: WorldModel) -> None:
    kept = Kept()
    found = imagine(recording(wall_dataset, [MODEL_STEPS]), model, kept)
    torch.testing.assert_close(*kept.latents, rtol=0, atol=0)
    np.testing.assert_array_equal(found.distance_planned, found.distance_from_start)


def test_a_video_shows_rollout_and_imagination_in_step(
    wall_dataset: EpisodeDataset, model: WorldModel, tmp_path: Path
) -> None:
    pytest.importorskip("av", reason="the extra video is not installed")
    item = recording(wall_dataset, [2, 4])
    pictures = NearestFrames.among(model, wall_dataset, wall_dataset.episode_ids[:1], 40, seed=0)
    imagined = imagine(item, model, pictures)
    assert imagined.moments(12).tolist() == [0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 3]
    (path,) = write_videos(str(tmp_path), {4: dataclasses.replace(item, imagination=imagined)})
    assert Path(path).name == "episode-4.mp4"
    frames, fps = read_video(path, what="episode 4")
    assert (len(frames), fps) == (MODEL_STEPS * FRAMESKIP + 1, pytest.approx(FRAMES_PER_S))
    # Four films of 64 px, each enlarged twice: goal, rollout, as planned, from the start.
    assert frames.shape[2] >= 4 * 128


def test_the_nearest_frame_of_a_seen_one_is_itself(wall_dataset: EpisodeDataset, model: WorldModel) -> None:
    ids = wall_dataset.episode_ids[:4]
    pictures = NearestFrames.among(model, wall_dataset, ids, 60, seed=3)
    assert len(np.unique(pictures.pixels.reshape(60, -1), axis=0)) > 50
    assert "nearest of 60 training frames" in pictures.about
    np.testing.assert_array_equal(pictures.of(pictures.visual_LPD[[7, 3, 7]]), pictures.pixels[[7, 3, 7]])
    # The choice follows from the seed alone, and asks for no more frames than there are.
    again = NearestFrames.among(model, wall_dataset, ids, 60, seed=3)
    np.testing.assert_array_equal(again.pixels, pictures.pixels)
    every = NearestFrames.among(model, wall_dataset, ids[:1], 1000, seed=0)
    np.testing.assert_array_equal(every.pixels, wall_dataset.read_episode(int(ids[0])).pixels)
    other = dataclasses.replace(wall_dataset.spec, pixels=dataclasses.replace(wall_dataset.spec.pixels, height=32))
    small = EpisodeDataset(wall_dataset.path)
    small.spec = other
    with pytest.raises(DataError, match=r"frames are \[32, 64, 3\], the model sees \[64, 64, 3\]"):
        NearestFrames.among(model, small, ids, 1, seed=0)


def test_a_head_draws_many_latents_in_order() -> None:
    pictures = DrawnByHead(lambda z_BTPD: z_BTPD[..., :1].expand(-1, -1, 3, 3)[..., None].to(torch.uint8), "image")
    levels = torch.arange(70.0)[:, None, None].expand(-1, 1, 4)
    drawn = pictures.of(levels)
    assert drawn.shape == (70, 3, 1, 3)
    np.testing.assert_array_equal(drawn[:, 0, 0, 0], np.arange(70))
