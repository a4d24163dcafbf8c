"""What strategies draw, on average: every bound is five standard deviations of the count that it bounds."""

import itertools
import math

import pytest
import torch
from masked_clips import GRID, LATENT_DIM, cues, generator_of
from torch import Tensor, nn

from jepawm.config.masking import AreaSetConfig, BlockSetConfig, MaskConfig, ShareSetConfig
from jepawm.pretraining.masks import Cues, LearnedMasks, MaskSet, TokenGrid, build_masks, realised
from jepawm.pretraining.masks.motion import motion_energy
from jepawm.pretraining.masks.probability import log_probability_of_set
from jepawm.pretraining.masks.sampling import draw_weighted

SMALL = TokenGrid(2, 2, 3)
HALF = ShareSetConfig(0.5)


def drawn(
    config: MaskConfig, num_clips: int, grid: TokenGrid = GRID, *, clips: Cues | None = None, seed: int = 0
) -> tuple[MaskSet, ...]:
    return build_masks(config, LATENT_DIM).draw(
        grid,
        num_clips=num_clips,
        rows=slice(0, num_clips),
        counter=seed,
        generator=generator_of(seed),
        cues=Cues() if clips is None else clips,
    )


def counts_of_sets(drawn_NU: Tensor) -> Tensor:
    """How often each of the sets of three of six units was drawn."""
    sets = [sum(2**unit for unit in units) for units in itertools.combinations(range(6), 3)]
    words_N = (drawn_NU.long() * 2 ** torch.arange(6)).sum(1)
    return torch.stack([(words_N == word).sum() for word in sets])


def assert_drawn_by(probability: Tensor, counts: Tensor) -> None:
    """Pearson's statistic, of mean `n - 1` and variance about `2 (n - 1)` if the counts have these probabilities."""
    expected = probability * counts.sum()
    assert expected.min() > 5, "too few draws for the statistic"
    freedom = len(counts) - 1
    assert ((counts - expected) ** 2 / expected).sum() < freedom + 5 * math.sqrt(2 * freedom)


def hidden_places(masks: MaskSet, grid: TokenGrid) -> Tensor:
    """`[N,S]` places that are targets at the first time."""
    hidden = torch.zeros(len(masks.target_BM), grid.num_tokens, dtype=torch.bool)
    return hidden.scatter_(1, masks.target_BM, True)[:, : grid.num_places]


# --- draws without replacement --------------------------------------------------------------------------------------


def test_sets_are_drawn_with_the_probability_of_weighted_draws_without_replacement() -> None:
    logits = torch.tensor([1.0, -0.5, 0.0, 0.3, -0.2, 0.7])
    count = 20_000
    drawn_NU = draw_weighted(
        logits.expand(count, -1),
        3,
        num_clips=count,
        units=6,
        rows=slice(0, count),
        generator=torch.Generator().manual_seed(0),
    )
    all_sets = torch.zeros(20, 6, dtype=torch.bool)
    for row, units in zip(all_sets, itertools.combinations(range(6), 3), strict=True):
        row[list(units)] = True
    assert_drawn_by(log_probability_of_set(logits.expand(20, -1), all_sets).exp(), counts_of_sets(drawn_NU))


UNIFORM = {
    "tubes": MaskConfig(name="tubes", sets=(HALF,)),
    "motion in still clips": MaskConfig(name="motion", sets=(HALF,), temperature=0.1),
    "learned with equal scores": MaskConfig(name="learned", sets=(HALF,)),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_all_sets_of_places_are_equally_likely(name: str) -> None:
    count = 2000
    still = Cues(torch.full((count, 4, 3, 2, 3), 7, dtype=torch.uint8), torch.randn(count, 12, LATENT_DIM))
    torch.manual_seed(0)
    strategy = build_masks(UNIFORM[name], LATENT_DIM)
    if isinstance(strategy, LearnedMasks):
        # Hidden units that differ from place to place, and a last layer that gives all the same score.
        last = strategy.scorer[-1]
        assert isinstance(last, nn.Linear)
        nn.init.constant_(last.bias, 3.0)
    (masks,) = strategy.draw(
        SMALL, num_clips=count, rows=slice(0, count), counter=0, generator=generator_of(len(name)), cues=still
    )
    counts = counts_of_sets(hidden_places(masks, SMALL))
    assert counts.sum() == count
    assert_drawn_by(torch.full((20,), 1 / 20), counts)


def test_a_new_scorer_gives_the_masks_of_random_tubes() -> None:
    clips = cues(5)
    learned, tubes = (drawn(MaskConfig(name=name), 5, clips=clips) for name in ("learned", "tubes"))
    for one, other in zip(learned, tubes, strict=True):
        assert torch.equal(one.context_BL, other.context_BL)
        assert torch.equal(one.target_BM, other.target_BM)


def test_context_is_drawn_evenly_from_what_is_no_target() -> None:
    count = 4000
    (masks,) = drawn(MaskConfig(name="tubes", sets=(ShareSetConfig(0.5, 0.2),)), count, SMALL)
    assert masks.context_BL.shape == (count, 2)
    frequency = masks.context_BL[:, 0].bincount(minlength=6) / count
    assert (frequency - 1 / 6).abs().max() < 5 * math.sqrt(1 / 6 * 5 / 6 / count)


# --- truncation -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", ["random", "end"])
def test_a_random_cut_spares_the_latest_targets(cut: str) -> None:
    """Blocks span the clip, so targets are spread evenly over time before the cut."""
    grid = TokenGrid(8, 8, 8)
    config = MaskConfig(cut=cut, sets=(BlockSetConfig(),))
    kept = torch.zeros(8)
    for seed in range(40):
        (masks,) = drawn(config, 6, grid, seed=seed)
        assert masks.lost_targets > 0
        kept += (masks.target_BM // grid.num_places).flatten().bincount(minlength=8)
    share = kept / kept.sum()
    # A cut without replacement varies less than independent draws.
    noise = 5 * math.sqrt(1 / 8 * 7 / 8 / kept.sum())
    if cut == "random":
        assert (share - 1 / 8).abs().max() < noise
    else:
        assert share[0] - share[-1] > 10 * noise


def test_both_cuts_keep_equally_many_of_the_same_blocks() -> None:
    end, random = (drawn(MaskConfig(cut=cut, sets=(BlockSetConfig(),)), 6)[0] for cut in ("end", "random"))
    assert end.target_BM.shape == random.target_BM.shape
    assert end.context_BL.shape == random.context_BL.shape
    assert (end.lost_targets, end.lost_context) == (random.lost_targets, random.lost_context)
    assert not torch.equal(end.target_BM, random.target_BM)


# --- blocks of exact size -------------------------------------------------------------------------------------------


def test_a_block_larger_than_the_target_share_is_trimmed_at_one_side() -> None:
    grid = TokenGrid(1, 16, 16)
    (masks,) = drawn(MaskConfig(name="block", sets=(AreaSetConfig(0.45, None, (0.7, 0.7)),)), 50, grid)
    hidden = hidden_places(masks, grid).view(50, 16, 16)
    for frame in hidden:
        rows, columns = frame.any(1).nonzero()[:, 0], frame.any(0).nonzero()[:, 0]
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        # All but a part of one row or column of a rectangle.
        assert height * width - int(frame.sum()) < max(height, width)


def test_exact_blocks_are_compact_where_tubes_are_scattered() -> None:
    grid = TokenGrid(1, 16, 16)
    borders = {}
    for name in ("block", "tubes"):
        hidden = hidden_places(drawn(MaskConfig(name=name), 50, grid)[0], grid).view(50, 16, 16)
        borders[name] = float((hidden[:, 1:] != hidden[:, :-1]).float().mean())
    # Neighbours of random places differ with probability 2 * .47 * .53; a block of 6 x 6 has 12 of its 36 at a border.
    assert borders["tubes"] == pytest.approx(0.5, abs=0.02)
    assert borders["block"] < borders["tubes"] / 2


# --- motion ---------------------------------------------------------------------------------------------------------


def test_motion_energy_is_the_mean_change_of_a_pixel() -> None:
    # 8 frames, 4 times, 2 x 2 places of 2 x 2 px. Place 3 jumps by 100 between frames 3 and 4, in one of its pixels.
    pixels = torch.full((1, 8, 3, 4, 4), 50, dtype=torch.uint8)
    pixels[0, 4:, :, 3, 3] = 150
    # Place 0 flickers by 8 from frame to frame, downwards as well as upwards.
    pixels[0, ::2, :, :2, :2] += 8
    energy = motion_energy(pixels, TokenGrid(4, 2, 2)).view(4, 4)
    assert energy[:, 0].tolist() == [8.0] * 4
    assert energy[:, 1].tolist() == energy[:, 2].tolist() == [0.0] * 4
    # Frames 3 and 4 each have it at one of two sides, in one of four pixels, and are one of two frames of their token.
    assert energy[:, 3].tolist() == [0.0, 6.25, 6.25, 0.0]
    assert motion_energy(pixels[:, :1], TokenGrid(1, 2, 2)).tolist() == [[0.0] * 4]


def test_places_are_drawn_in_proportion_to_their_motion() -> None:
    """One target: the probability is the weight itself."""
    count = 1500
    pixels = torch.zeros(1, 2, 1, 2, 3, dtype=torch.uint8)
    change = torch.tensor([[0, 10, 20], [30, 40, 140]])
    pixels[0, 1, 0] = change.to(torch.uint8)
    config = MaskConfig(name="motion", sets=(ShareSetConfig(1 / 6),), temperature=1.0, still_weight=0.5)
    (masks,) = drawn(config, count, TokenGrid(1, 2, 3), clips=Cues(pixels.expand(count, -1, -1, -1, -1)))
    weights = change.flatten() / 40.0 + 0.5
    assert_drawn_by(weights / weights.sum(), masks.target_BM[:, 0].bincount(minlength=6))


@pytest.mark.parametrize("unit", ["tubes", "tokens"])
def test_motion_is_hidden_more_at_a_lower_temperature(unit: str) -> None:
    clips = cues(40)
    assert clips.pixels_BTCYX is not None
    energy = motion_energy(clips.pixels_BTCYX, GRID)
    hidden = []
    for temperature in (1e6, 1.0, 0.3):
        config = MaskConfig(name="motion", unit=unit, sets=(ShareSetConfig(0.25),), temperature=temperature)
        (one,) = realised(drawn(config, 40, clips=clips), GRID, energy)
        assert one.hidden_motion is not None
        hidden.append(one.hidden_motion)
    # Six of 24 places move, and a quarter is hidden: all of the motion at best, a quarter of it by chance.
    assert hidden[0] == pytest.approx(0.25, abs=5 * math.sqrt(0.25 * 0.75 / (40 * 6)))
    assert hidden[0] < hidden[1] < hidden[2]
    assert hidden[2] > 0.9


# --- summary --------------------------------------------------------------------------------------------------------


def test_the_summary_counts_what_there_is() -> None:
    masks = MaskSet(torch.tensor([[0, 1], [2, 3]]), torch.tensor([[4, 5, 6], [0, 1, 7]]), 0.25, 0.5)
    energy = torch.tensor([[0.0, 0, 0, 0, 1, 1, 0, 2], [0] * 8]).double()
    grid = TokenGrid(2, 2, 2)
    (one,) = realised([masks], grid, energy)
    assert (one.context_share, one.target_share) == (2 / 8, 3 / 8)
    assert (one.lost_targets, one.lost_context) == (0.25, 0.5)
    # The second clip stands still and does not count.
    assert one.hidden_motion == 0.5
    assert type(one).from_dict(one.to_dict()) == one
    assert realised([masks], grid, energy[1:].expand(2, -1))[0].hidden_motion is None
    assert one.as_set() == ShareSetConfig(3 / 8, 2 / 8)
