"""Every kind of head learns what its latents hold, and nothing from latents that hold nothing."""

import dataclasses
import itertools
from typing import Any

import dot_world
import pytest
import torch

from jepawm.config import OptimConfig
from jepawm.config.head import HeadConfig, HeadTrainConfig
from jepawm.config.predictor import MLPPredictorConfig
from jepawm.errors import DataError, TrainingError
from jepawm.latent import Latent
from jepawm.training.head_tasks import HeadTask, build_task
from jepawm.training.head_tasks.macro import MacroBatch
from jepawm.training.heads import fit_head
from jepawm.training.latent_episodes import LatentEpisodes

SIZES: dict[str, dict[str, Any]] = {
    "image": {"dim": 32, "depth": 1, "num_heads": 2, "pixel_loss": "l2"},
    "vqvae": {"channels": 16, "num_codes": 16, "num_residual": 1, "residual_channels": 8},
    "transposed_conv": {"depth": 1},
    "state": {"dim": 32, "depth": 1, "num_heads": 2, "units": "standardised"},
    "distance": {"hidden_dim": 64, "num_layers": 2, "horizon": 9, "quantile": 0.5},
    "inverse_dynamics": {"hidden_dim": 64, "num_layers": 2, "horizon": 9},
    "macro": {"macro_dim": 2, "hidden_dim": 32, "num_model_steps": 3, "predictor": MLPPredictorConfig(hidden_dim=32)},
}
TRAIN = HeadTrainConfig(num_train_steps=150, batch_size=64, precision="float32", log_every=15)
OPTIM = OptimConfig(learning_rate=3e-3, weight_decay=0.0, grad_clip_norm=1.0)
DRAWS = dataclasses.replace(OPTIM, learning_rate=1e-2)
Records = list[dict[str, Any]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def trained(
    name: str,
    episodes: LatentEpisodes,
    train: HeadTrainConfig = TRAIN,
    *,
    optim: OptimConfig = OPTIM,
    **settings: Any,
) -> tuple[HeadTask, Records]:
    torch.manual_seed(0)
    task = build_task(HeadConfig(name=name, **SIZES[name] | settings), dot_world.SHAPE)
    records: Records = []
    return fit_head(task, episodes, train, optim, seed=0, on_metrics=records.append), records


def unexplained(name: str, metrics: dict[str, float]) -> float:
    """How much of what is read remains: 0 is perfect, 1 no better than a constant."""
    if name == "state":
        return 1 - metrics["r2"]
    if name == "distance":
        return metrics["quantile_loss"] / metrics["quantile_loss_constant"]
    if name == "inverse_dynamics":
        return metrics["mse"] / metrics["mse_mean_chunk"]
    if name == "macro":
        return metrics["mse_after_2"] / metrics["mse_shuffled_after_2"]
    return metrics["mse"] / metrics["mse_mean_frame"]


def data_for(name: str) -> tuple[LatentEpisodes, LatentEpisodes]:
    """Training and held-out episodes; heads that draw have frames that differ much."""
    if name in ("image", "vqvae", "transposed_conv"):
        return dot_world.halves(64, 1), dot_world.halves(32, 2)
    return dot_world.episodes(60, 1), dot_world.episodes(20, 2)


@pytest.mark.parametrize("name", SIZES)
def test_a_head_learns_what_latents_hold_and_nothing_from_empty_ones(name: str) -> None:
    known, held_out = data_for(name)
    train, optim = TRAIN, OPTIM
    if known.states is None:
        train, optim = dataclasses.replace(TRAIN, num_train_steps=90, batch_size=8), DRAWS
    elif name == "state":
        train = dataclasses.replace(TRAIN, num_train_steps=400)
    task, records = trained(name, known, train, optim=optim)
    assert records[-1]["train_step"] == train.num_train_steps
    assert records[-1]["train/loss"] < 0.6 * records[0]["train/loss"]
    assert unexplained(name, task.measure(held_out, generator())) < 0.6
    # Nothing can be learnt from empty latents but a constant, which takes fewer steps.
    short = dataclasses.replace(train, num_train_steps=train.num_train_steps // 3)
    blind, _ = trained(name, dot_world.with_empty_latents(known), short, optim=optim)
    assert unexplained(name, blind.measure(dot_world.with_empty_latents(held_out), generator())) > 0.9


def test_a_head_around_the_mean_frame_begins_with_it_and_is_saved_with_it() -> None:
    whole = dot_world.halves(64, 1)
    assert whole.pixels is not None
    # Dark frames that differ little.
    known = dataclasses.replace(whole, pixels=whole.pixels // 8)
    barely = (dataclasses.replace(TRAIN, num_train_steps=1), dataclasses.replace(OPTIM, learning_rate=1e-9))
    plain, around = (
        trained("image", known, barely[0], optim=barely[1], around_mean_frame=wanted)[0] for wanted in (False, True)
    )
    metrics = around.measure(known, generator())
    # Drawn colours are rounded to one of 256.
    assert metrics["mse"] == pytest.approx(metrics["mse_mean_frame"], abs=1 / 255**2)
    assert plain.measure(known, generator())["mse"] > 5 * metrics["mse"]
    again = build_task(around.config, dot_world.SHAPE)
    again.head.load_state_dict(around.finish().state_dict())
    assert again.measure(known, generator()) == metrics
    assert "mean_frame" not in plain.finish().state_dict()


def test_a_head_is_a_function_of_its_seed() -> None:
    known = dot_world.episodes(10, 1)
    short = dataclasses.replace(TRAIN, num_train_steps=5)
    first, again = (trained("distance", known, short)[0].head.state_dict() for _ in range(2))
    assert all(torch.equal(first[key], again[key]) for key in first)
    torch.manual_seed(0)
    task = build_task(HeadConfig(name="distance", **SIZES["distance"]), dot_world.SHAPE)
    other = fit_head(task, known, short, OPTIM, seed=1).head.state_dict()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_a_loss_that_is_not_finite_ends_the_training() -> None:
    known = dot_world.episodes(10, 1)
    broken = dataclasses.replace(known, chunks=torch.full_like(known.chunks, float("nan")))
    with pytest.raises(TrainingError, match="not finite"):
        trained("inverse_dynamics", broken, dataclasses.replace(TRAIN, num_train_steps=2))


# -- states ----------------------------------------------------------------------------------------------------------


def test_a_saved_state_head_gives_the_units_of_the_state() -> None:
    known = dot_world.episodes(60, 1)
    task, records = trained("state", known, dataclasses.replace(TRAIN, num_train_steps=100), units="raw")
    before = task.measure(known, generator())
    standardised = task.head(known.latents.visual[:, None])[:, 0]
    head = task.finish()
    read = head(known.latents.visual[:, None])[:, 0]
    assert known.states is not None
    assert (read - known.states).abs().mean(dim=0)[1] < 0.3 * known.states.std(dim=0)[1]
    # Folding the scale into the last layer changes no number but by rounding.
    after = task.measure(known, generator())
    assert after == pytest.approx(before, rel=1e-3, abs=1e-3)
    assert standardised.abs().max() < 5 < read.abs().max()
    assert {"train/l1", "train/l1_standardised"} <= records[-1].keys()


# -- distances and actions -------------------------------------------------------------------------------------------


def corridor(number: int, frames: int) -> LatentEpisodes:
    """Episodes along one corridor, each from another place in it."""
    starts = torch.linspace(0, 0.3, number)
    x = (starts[:, None] + 0.05 * torch.arange(frames)).flatten()
    positions = torch.stack([x, torch.full_like(x, 0.5)], dim=-1)
    return LatentEpisodes(dot_world.latents_of(positions), (frames,) * number)


def test_distances_grow_with_the_way_along_a_corridor() -> None:
    task, _ = trained("distance", corridor(12, 10), negative_fraction=0.0)
    x = 0.1 + 0.05 * torch.arange(9)
    latents = dot_world.latents_of(torch.stack([x, torch.full_like(x, 0.5)], dim=-1)).visual
    with torch.no_grad():
        ahead = task.head(latents[:1], latents)
    assert all(near < far for near, far in itertools.pairwise(ahead.tolist()))
    torch.testing.assert_close(ahead, torch.arange(9.0), atol=1.0, rtol=0)


@pytest.mark.parametrize("quantile", [0.1, 0.9])
def test_without_knowledge_the_distance_is_the_quantile_of_all_numbers_of_steps(quantile: float) -> None:
    known = dot_world.with_empty_latents(dot_world.episodes(60, 1))
    task, _ = trained("distance", known, quantile=quantile, negative_fraction=0.0)
    steps = task.draw(known, 4000, generator()).steps
    assert steps is not None
    with torch.no_grad():
        found = float(task.head(known.latents.visual[0], known.latents.visual[0]))
    # Numbers of steps are whole, so a quantile of the pairs is known to a step.
    assert found == pytest.approx(float(steps.quantile(quantile)), abs=1.0)


def test_goals_of_other_episodes_are_far() -> None:
    """Two rooms without a door: what lies in the other one is at least the horizon away."""
    half = 6
    left, right = corridor(half, 10), corridor(half, 10)
    visual = torch.cat([left.latents.visual, right.latents.visual + torch.tensor([0.0, 0.0, 0.0, 4.0])])
    rooms = LatentEpisodes(Latent(visual), (10,) * (2 * half))
    near, _ = trained("distance", rooms, negative_fraction=0.0)
    far, _ = trained("distance", rooms, negative_fraction=0.5)
    a, b = visual[5:6], visual[60 + 5 : 60 + 6]
    with torch.no_grad():
        assert float(far.head(a, b)) > 0.8 * 9 > float(near.head(a, b))


def test_batches_of_pairs_hold_the_chunk_that_was_executed_and_goals_that_were_reached() -> None:
    """A hand-made episode: the dot moves right twice, then up twice."""
    places = torch.tensor([[0.1, 0.1], [0.2, 0.1], [0.3, 0.1], [0.3, 0.2], [0.3, 0.3]])
    chunks = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    episode = LatentEpisodes(dot_world.latents_of(places), (5,), chunks=chunks)
    task = build_task(HeadConfig(name="inverse_dynamics", hidden_dim=8, horizon=2), dot_world.SHAPE)
    batch = task.draw(episode, 500, generator())
    assert batch.goal is not None
    pairs = set()
    for visual, goal, steps, chunk in zip(batch.now.visual, batch.goal.visual, batch.steps, batch.chunks, strict=True):
        row, goal_row = (int((episode.latents.visual == each).all(dim=(1, 2)).nonzero()) for each in (visual, goal))
        assert goal_row - row == int(steps)
        assert torch.equal(chunk, chunks[row])
        pairs.add((row, goal_row))
    assert pairs == {(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (2, 4), (3, 4)}


# -- macro-actions ---------------------------------------------------------------------------------------------------


def test_a_macro_window_is_the_chunks_between_the_frames_that_are_compared() -> None:
    known = dot_world.episodes(6, 1)
    task = build_task(HeadConfig(name="macro", **SIZES["macro"]), dot_world.SHAPE)
    batch = task.draw(known, 50, generator())
    assert isinstance(batch, MacroBatch)
    assert batch.after is not None
    assert batch.chunks_BKkA is not None
    assert batch.chunks_BKkA.shape == (50, 2, 3, 2)
    # In the dot's world places add up the chunks between them, in strides.
    now, after = (places(each) for each in (batch.now, batch.after))
    moved = now[:, None] + dot_world.STRIDE * batch.chunks_BKkA.sum(dim=2).cumsum(dim=1)
    torch.testing.assert_close(after, moved, atol=1e-5, rtol=0)


def places(latents: Latent) -> torch.Tensor:
    """`[...,2]` places that the dot's latents stand for."""
    x_minus_y, x_plus_y = latents.visual[..., 0, 0], latents.visual[..., 0, 1]
    return torch.stack([x_plus_y + x_minus_y, x_plus_y - x_minus_y], dim=-1) / 8 + 0.5


def test_macro_windows_that_no_episode_holds_are_refused() -> None:
    with pytest.raises(DataError, match="2 macro-actions of 5 model steps, the longest of 3 episodes has 9 "):
        trained("macro", dot_world.episodes(3, 1), num_model_steps=5)
