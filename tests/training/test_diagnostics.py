"""Collapse, measured on latents whose rank, spread and content are known."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.latent import Latent
from jepawm.nn.spectrum import effective_rank
from jepawm.training.diagnostics import collapse, latent_diagnostics, linear_probe_r2, prediction_errors
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Known(WorldModel):
    """Its latent is the frame's first pixels; an action moves all of it."""

    def __init__(self, dim: int = 4, scale: float = 1.0) -> None:
        torch.nn.Module.__init__(self)
        self.dim, self.scale = dim, scale

    def encode(self, pixels_BTCYX: Tensor, proprio_BTR: Tensor | None = None) -> Latent:
        return Latent(self.scale * pixels_BTCYX[:, :, 0, 0, : self.dim].float()[:, :, None])

    def unroll(self, context: Latent, actions_BHA: Tensor, past_actions_BLA: Tensor | None = None) -> Latent:
        return Latent(context.visual[:, -1:] + actions_BHA.sum(dim=-1).cumsum(dim=1)[:, :, None, None])


def windows(B: int = 300, T: int = 4, dim: int = 4, sim_state: bool = True) -> WindowBatch:
    """Every number of the state is a pixel, and grows by the chunk's action, plus one at the last step."""
    rng = np.random.default_rng(0)
    start = rng.integers(0, 100, size=(B, 1, dim))
    moves = rng.integers(0, 20, size=(B, T - 1, 1))
    state = np.concatenate([start, start + moves.cumsum(axis=1)], axis=1)
    state[:, -1] += 1
    pixels = np.zeros((B, T, 8, 8, 3), np.uint8)
    pixels[:, :, 0, :dim, 0] = state
    return WindowBatch(
        pixels,
        moves.astype(np.float32),
        np.zeros((B, T, 1), np.float32),
        state.astype(np.float64) if sim_state else None,
        np.arange(B),
        np.zeros(B, np.int64),
    )


# -- collapse ---------------------------------------------------------------------------------------------------------


def test_statistics_tell_living_latents_from_collapsed_ones() -> None:
    alive = collapse(normal(256, 16))
    # The deviation of 256 normal numbers is uncertain by 0.044, the mean of 16 of them by 0.011.
    assert alive["diagnostics/latent_std_mean"] == pytest.approx(1, abs=0.05)
    assert 12 < alive["diagnostics/effective_rank"] <= 16
    assert collapse(torch.ones(256, 16)) == {
        "diagnostics/latent_std_mean": 0.0,
        "diagnostics/latent_std_min": 0.0,
        "diagnostics/effective_rank": pytest.approx(1),
    }


# -- effective rank --------------------------------------------------------------------------------------------------


def test_the_effective_rank_is_one_for_a_line_and_full_for_a_ball() -> None:
    assert effective_rank(normal(5000, 16)) == pytest.approx(16, rel=0.01)
    assert effective_rank(normal(500, 1) * normal(1, 16, seed=1) + 3) == pytest.approx(1, abs=1e-3)
    assert effective_rank(torch.full((100, 16), 2.5)) == pytest.approx(1)
    two = torch.cat([normal(5000, 2), torch.zeros(5000, 14)], dim=1)
    assert effective_rank(two) == pytest.approx(2, rel=0.01)


def test_the_effective_rank_is_the_exponential_of_the_entropy() -> None:
    latents = normal(20_000, 3) * torch.tensor([2.0, 1.0, 1.0])
    shares = np.array([4, 1, 1]) / 6
    assert effective_rank(latents) == pytest.approx(math.exp(-(shares * np.log(shares)).sum()), rel=0.01)
    assert effective_rank(100 * latents + 7) == pytest.approx(effective_rank(latents), rel=1e-3)


# -- the probe -------------------------------------------------------------------------------------------------------


def test_a_probe_reads_what_is_linear_and_not_what_is_noise() -> None:
    latents = normal(2000, 8)
    linear = latents @ normal(8, 2, seed=1) + 5
    noise = normal(2000, 1, seed=2)
    first, second, third = linear_probe_r2(latents, torch.cat([linear, noise], dim=1))
    assert first == pytest.approx(1, abs=1e-4)
    assert second == pytest.approx(1, abs=1e-4)
    assert -0.1 < third < 0.05


def test_a_probe_is_judged_on_samples_it_has_not_seen() -> None:
    # As many dimensions as samples: the fit is perfect, and worthless.
    assert linear_probe_r2(normal(100, 80), normal(100, 1, seed=1))[0] < 0


def test_a_target_that_does_not_vary_has_no_r2() -> None:
    # The second one stands still but for a simulator's noise; the third one moves by micrometres.
    noise = normal(100, 1, seed=2).double()
    values = linear_probe_r2(normal(100, 4), torch.cat([torch.ones(100, 1), 3 + 5e-7 * noise, 5e-6 * noise], dim=1))
    assert [math.isnan(value) for value in values] == [True, True, False]


def test_collapsed_latents_are_seen_and_break_nothing() -> None:
    alive = latent_diagnostics(Known(), windows(), ("a", "b", "c", "d"), CPU)
    assert alive["diagnostics/latent_std_mean"] == pytest.approx(100 / math.sqrt(12), rel=0.1)
    assert alive["diagnostics/effective_rank"] == pytest.approx(4, rel=0.05)
    assert [alive[f"diagnostics/probe_r2/{name}"] for name in "abcd"] == pytest.approx([1] * 4, abs=1e-3)
    dead = latent_diagnostics(Known(scale=0.0), windows(), ("a", "b", "c", "d"), CPU)
    assert dead["diagnostics/latent_std_mean"] == dead["diagnostics/latent_std_min"] == 0
    assert dead["diagnostics/effective_rank"] == pytest.approx(1)
    assert dead["diagnostics/probe_r2/a"] < 0.05


def test_without_simulator_states_there_is_no_probe() -> None:
    metrics = latent_diagnostics(Known(), windows(sim_state=False), (), CPU)
    assert set(metrics) == {"diagnostics/latent_std_mean", "diagnostics/latent_std_min", "diagnostics/effective_rank"}


# -- prediction ------------------------------------------------------------------------------------------------------


def test_prediction_errors_are_those_worked_out_by_hand() -> None:
    batch = windows()
    assert batch.sim_state is not None
    state = batch.sim_state
    rows: list[dict[str, Any]] = prediction_errors(Known(), batch, CPU, seed=3)
    assert [row["model_steps"] for row in rows] == [1, 2, 3]
    # The model knows all but the one that is added at the end.
    assert [row["model"] for row in rows] == pytest.approx([0, 0, 1])
    for k, row in enumerate(rows, start=1):
        assert row["persistence"] == pytest.approx(((state[:, k] - state[:, 0]) ** 2).mean(), rel=1e-5)
        assert row["variance"] == pytest.approx(((state - state.mean(axis=(0, 1))) ** 2).mean(), rel=1e-5)
        assert row["shuffled_actions"] > row["model"] + 10
    order = torch.randperm(300, generator=torch.Generator().manual_seed(3)).numpy()
    wrong = state[:, 0] + batch.actions[order].sum(axis=1)
    assert rows[2]["shuffled_actions"] == pytest.approx(((wrong - state[:, 3]) ** 2).mean(), rel=1e-4)


class Felt(Known):
    """Its latent holds proprio too, and what it felt last is added to what it predicts."""

    def encode(self, pixels_BTCYX: Tensor, proprio_BTR: Tensor | None = None) -> Latent:
        assert proprio_BTR is not None
        return Latent(super().encode(pixels_BTCYX).visual, proprio_BTR[:, :, None])

    def unroll(self, context: Latent, actions_BHA: Tensor, past_actions_BLA: Tensor | None = None) -> Latent:
        assert context.proprio is not None
        return Latent(super().unroll(context, actions_BHA).visual + context.proprio[:, -1:])


def test_a_model_that_reads_proprio_is_given_that_of_the_same_frames() -> None:
    batch = windows()
    batch.proprio[:] = np.random.default_rng(1).normal(size=batch.proprio.shape)
    rows, blind = (prediction_errors(model, batch, CPU, seed=3) for model in (Felt(), Known()))
    first = batch.proprio[:, 0].astype(np.float64)
    expected = [(first**2).mean(), (first**2).mean(), ((first - 1) ** 2).mean()]
    assert [row["model"] for row in rows] == pytest.approx(expected, rel=1e-5)
    # Collapse and baselines are of the visual part: proprio is given, and cannot collapse.
    for name in ("persistence", "variance"):
        assert [row[name] for row in rows] == [row[name] for row in blind]
    names = ("a", "b", "c", "d")
    assert latent_diagnostics(Felt(), batch, names, CPU) == latent_diagnostics(Known(), batch, names, CPU)
