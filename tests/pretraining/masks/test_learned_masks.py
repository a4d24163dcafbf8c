"""The scorer of learned masks: its loss by another way, where its gradient goes, and what it learns."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from enumerated_sets import probability_by_orders
from masked_clips import GRID, IMAGE, LATENT_DIM, MOVING, cues, generator_of
from torch import Tensor, nn
from two_workers import on_two_workers

from jepawm.config.masking import MaskConfig, ShareSetConfig
from jepawm.errors import ConfigError
from jepawm.nn.collectives import num_workers
from jepawm.pretraining.masks import Cues, DrawnGroup, LearnedMasks, TokenGrid, build_masks, realised
from jepawm.pretraining.masks.motion import motion_energy

TINY = TokenGrid(2, 2, 3)
HALF = (ShareSetConfig(0.5),)


def learned(**changed: Any) -> LearnedMasks:
    torch.manual_seed(0)
    strategy = build_masks(MaskConfig(name="learned", **changed), LATENT_DIM)
    assert isinstance(strategy, LearnedMasks)
    return strategy


def with_scores(strategy: LearnedMasks) -> LearnedMasks:
    """Scores that differ from place to place; they all start at 0."""
    for parameter in strategy.parameters():
        nn.init.normal_(parameter, std=0.5)
    return strategy


def drawn_group(strategy: LearnedMasks, num_clips: int, grid: TokenGrid, *, rows: slice | None = None) -> DrawnGroup:
    """This worker's share of a group, with losses that are random and depend on the clip alone."""
    rows = slice(0, num_clips) if rows is None else rows
    features = torch.randn(num_clips, grid.num_tokens, LATENT_DIM, generator=torch.Generator().manual_seed(3))[rows]
    sets = strategy.draw(
        grid, num_clips=num_clips, rows=rows, counter=0, generator=generator_of(0), cues=Cues(None, features)
    )
    noise = torch.Generator().manual_seed(4)
    losses = [torch.rand(num_clips, one.target_BM.shape[1], generator=noise)[rows] for one in sets]
    return DrawnGroup(grid, sets, tuple(losses), features)


# --- the loss -------------------------------------------------------------------------------------------------------


def test_the_loss_of_whole_clips_is_the_enumerated_log_probability_times_the_advantage() -> None:
    strategy = with_scores(learned(sets=HALF, credit="clip", entropy=0.3))
    group = drawn_group(strategy, 4, TINY)
    loss = strategy.scorer_loss([group], 0.75)
    assert loss.coefficient == 0.5
    (found,) = torch.autograd.grad(loss.loss, strategy.scorer[0].weight, retain_graph=True)

    scores = strategy.scores(group.features_BLD, TINY).double()
    mean_B = group.token_losses[0].double().mean(1)
    advantage_B = (mean_B - mean_B.mean()) / mean_B.std(correction=0)
    total = torch.zeros((), dtype=torch.float64)
    for score, target, advantage in zip(scores, group.sets[0].target_BM, advantage_B, strict=True):
        p = score.softmax(0)
        evenness = -(p * p.log()).sum() / torch.tensor(6.0).log()
        total = (
            total - 0.5 * probability_by_orders(score, tuple(target[:3].tolist())).log() * advantage - 0.3 * evenness
        )
    expected = total / 4
    # Scores are float32.
    torch.testing.assert_close(loss.loss.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, torch.autograd.grad(expected, strategy.scorer[0].weight)[0], rtol=1e-4, atol=1e-5)
    assert loss.mean_loss == pytest.approx(float(mean_B.mean()))


def test_each_tube_answers_for_its_own_loss() -> None:
    """With equal scores, the derivative of log pi_i over score j is known: (1 - delta_ij's share) of one number."""
    strategy = learned(sets=HALF, entropy=0.0)
    group = drawn_group(strategy, 3, TINY)
    group.features_BLD.requires_grad_()
    places_BK = group.sets[0].target_BM[:, :3]
    loss_BK = group.token_losses[0].view(3, TINY.times, 3).mean(1)
    advantage_BK = (loss_BK - loss_BK.mean()) / loss_BK.std(correction=0)
    # pi = 1 - exp(-w tau) = 1/2, so d pi_i / d score_j = c (delta_ij - 1/6) with c = w tau exp(-w tau) = ln(2) / 2.
    slope = 2 * torch.log(torch.tensor(2.0)) / 2
    expected_BS = torch.zeros(3, 6).scatter_(1, places_BK, advantage_BK)
    expected_BS = -slope * (expected_BS - expected_BS.sum(1, keepdim=True) / 6) / 3 / 3

    scores: list[Tensor] = []
    inner = strategy.scores

    def kept(*arguments: Any) -> Tensor:
        scores.append(inner(*arguments))
        scores[-1].retain_grad()
        return scores[-1]

    strategy.scores = kept  # type: ignore[method-assign]
    strategy.scorer_loss([group], 1.0).loss.backward()
    torch.testing.assert_close(scores[0].grad, expected_BS, rtol=1e-4, atol=1e-6)
    assert group.features_BLD.grad is None


@pytest.mark.parametrize("credit", ["tube", "clip"])
def test_the_gradient_reaches_the_scorer_alone(credit: str) -> None:
    strategy = with_scores(learned(credit=credit))
    group = drawn_group(strategy, 4, GRID)
    for tensor in (group.features_BLD, *group.token_losses):
        tensor.requires_grad_()
    strategy.scorer_loss([group], 1.0).loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in strategy.parameters())
    assert group.features_BLD.grad is None
    assert all(losses.grad is None for losses in group.token_losses)


def test_the_curriculum_goes_from_helping_to_adversarial() -> None:
    config = learned(start_coefficient=-2.0, end_coefficient=1.0, curriculum_fraction=0.6).config
    assert [config.coefficient(progress) for progress in (0.0, 0.3, 0.6, 1.0)] == pytest.approx([-2.0, -0.5, 1.0, 1.0])
    strategy = with_scores(learned(entropy=0.0))
    group = drawn_group(strategy, 4, GRID)
    first, middle, last = (strategy.scorer_loss([group], progress).loss.item() for progress in (0.0, 0.5, 1.0))
    assert first == pytest.approx(-last)
    assert middle == 0
    assert last != 0


def test_losses_that_are_all_alike_leave_the_entropy_bonus_alone() -> None:
    strategy = with_scores(learned(entropy=0.1))
    group = drawn_group(strategy, 4, GRID)
    group = replace(group, token_losses=tuple(torch.full_like(one, 0.7) for one in group.token_losses))
    optimizer = torch.optim.SGD(strategy.parameters(), 0.5)
    entropies = []
    for _ in range(20):
        terms = strategy.scorer_loss([group], 1.0)
        optimizer.zero_grad()
        terms.loss.backward()
        optimizer.step()
        entropies.append(terms.entropy)
    assert terms.loss.item() == pytest.approx(-0.1 * terms.entropy, abs=1e-6)
    assert entropies[-1] > entropies[0]
    assert 0 < entropies[0] < entropies[-1] <= 1


def test_losses_of_other_masks_are_refused() -> None:
    strategy = learned()
    group = drawn_group(strategy, 2, GRID)
    wrong = replace(group, token_losses=group.token_losses[::-1])
    with pytest.raises(ConfigError, match=r"token_losses\[0\] must have the shape of target_BM, \(2, 48\)"):
        strategy.scorer_loss([wrong], 0.0)
    with pytest.raises(ConfigError, match="expected 96 tokens of width 8, found \\(95, 8\\)"):
        strategy.scores(group.features_BLD[:, 1:], GRID)


# --- workers --------------------------------------------------------------------------------------------------------


def worker_gradients(rank: int, shares: list[list[slice]]) -> list[Tensor]:
    """Gradients of one worker's share of two groups, averaged over workers as data parallelism averages them."""
    gradients = []
    for credit in ("tube", "clip"):
        strategy = with_scores(learned(credit=credit))
        own = [
            drawn_group(strategy, 4, grid, rows=rows) for grid, rows in zip((GRID, IMAGE), shares[rank], strict=True)
        ]
        strategy.scorer_loss([group for group in own if len(group.features_BLD)], 0.9).loss.backward()
        for parameter in strategy.parameters():
            assert parameter.grad is not None
            if num_workers() > 1:
                torch.distributed.all_reduce(parameter.grad)
            gradients.append(parameter.grad / num_workers())
    return gradients


def test_two_workers_have_the_gradient_of_one(tmp_path: Path) -> None:
    whole = worker_gradients(0, [[slice(0, 4), slice(0, 4)]])
    # The second worker has one clip of the first group and none of the second.
    uneven = [[slice(0, 3), slice(0, 4)], [slice(3, 4), slice(4, 4)]]
    for gradients in on_two_workers(worker_gradients, tmp_path, uneven):
        for found, expected in zip(gradients, whole, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_worker_without_clips_has_a_gradient_of_zero() -> None:
    strategy = learned()
    strategy.scorer_loss([], 0.5).loss.backward()
    for parameter in strategy.parameters():
        assert parameter.grad is not None
        assert not parameter.grad.any()


# --- what is learned ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("credit", ["tube", "clip"])
def test_an_adversarial_scorer_hides_motion_and_a_helping_one_shows_it(credit: str) -> None:
    """Moving places are hard to predict here: a loss of 1 against .5, and noise of .1 for each token."""
    clips = cues(16)
    assert clips.pixels_BTCYX is not None
    assert clips.features_BLD is not None
    energy = motion_energy(clips.pixels_BTCYX, GRID)
    hidden = {}
    for coefficient in (-1.0, 1.0):
        strategy = learned(
            sets=HALF, credit=credit, start_coefficient=coefficient, end_coefficient=coefficient, hidden_dim=32
        )
        optimizer = torch.optim.Adam(strategy.parameters(), 1e-2)
        noise = torch.Generator().manual_seed(6)
        for step in range(40):
            sets = strategy.draw(
                GRID, num_clips=16, rows=slice(0, 16), counter=step, generator=generator_of(step), cues=clips
            )
            places = sets[0].target_BM % GRID.num_places
            losses = 0.5 + 0.5 * torch.isin(places, torch.tensor(MOVING)).float()
            losses = losses + 0.1 * torch.randn(losses.shape, generator=noise)
            group = DrawnGroup(GRID, sets, (losses,), clips.features_BLD)
            optimizer.zero_grad()
            strategy.scorer_loss([group], step / 40).loss.backward()
            optimizer.step()
        (one,) = realised(sets, GRID, energy)
        assert one.hidden_motion is not None
        hidden[coefficient] = one.hidden_motion
    # Half of the places are hidden, so half of the motion is by chance.
    assert hidden[-1.0] < 0.25
    assert hidden[1.0] > 0.75
