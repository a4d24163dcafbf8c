"""What every mask strategy promises, and what those of exact shares promise besides."""

from typing import Any

import pytest
import torch
from masked_clips import GRID, IMAGE, LATENT_DIM, cues, generator_of, share_of
from torch import nn

from jepawm.config.masking import AreaSetConfig, BlockSetConfig, MaskConfig, ShareSetConfig
from jepawm.config.yaml_io import from_dict, to_dict
from jepawm.errors import ConfigError
from jepawm.pretraining.masks import Cues, LearnedMasks, MaskSet, MaskStrategy, TokenGrid, build_masks

SHORT: Any = {"num_blocks": 2, "spatial_scale": (0.2, 0.8), "temporal_scale": (0.3, 0.9), "aspect_ratio": (0.5, 2.0)}
EXACT: dict[str, MaskConfig] = {
    "block": MaskConfig(name="block"),
    "tubes": MaskConfig(name="tubes"),
    "tokens": MaskConfig(name="tokens"),
    "motion": MaskConfig(name="motion"),
    "motion tokens": MaskConfig(name="motion", unit="tokens"),
    "learned": MaskConfig(name="learned"),
}
STRATEGIES: dict[str, MaskConfig] = {
    "multiblock": MaskConfig(),
    "multiblock random": MaskConfig(cut="random"),
    "multiblock options": MaskConfig(
        cut="random",
        sets=(
            BlockSetConfig(**SHORT, max_keep=9, full_complement=True),
            BlockSetConfig(**SHORT, pred_full_complement=True),
            BlockSetConfig(**SHORT, inv_block=True),
            BlockSetConfig(**SHORT, max_temporal_keep=0.5),
        ),
    ),
    "complement": MaskConfig(name="tubes", sets=(ShareSetConfig(0.75),)),
    **EXACT,
}
NUM_CLIPS = 7


def built(config: MaskConfig) -> MaskStrategy:
    strategy = build_masks(config, LATENT_DIM)
    if isinstance(strategy, LearnedMasks):
        # Scores that differ; they all start at 0.
        torch.manual_seed(5)
        for parameter in strategy.parameters():
            nn.init.normal_(parameter)
    return strategy


def drawn(
    config: MaskConfig, counter: int = 0, *, rows: slice = slice(0, NUM_CLIPS), **changed: Any
) -> tuple[MaskSet, ...]:
    grid = changed.pop("grid", GRID)
    given: dict[str, Any] = {
        "num_clips": NUM_CLIPS,
        "rows": rows,
        "counter": counter,
        "generator": generator_of(counter),
        "cues": share_of(cues(NUM_CLIPS, grid), rows),
    }
    return built(config).draw(grid, **(given | changed))


def same(one: tuple[MaskSet, ...], other: tuple[MaskSet, ...]) -> bool:
    return all(
        torch.equal(a.context_BL, b.context_BL) and torch.equal(a.target_BM, b.target_BM)
        for a, b in zip(one, other, strict=True)
    )


def test_every_kind_is_under_contract() -> None:
    assert {config.name for config in STRATEGIES.values()} == set(MaskConfig.kinds)


@pytest.mark.parametrize("grid", [GRID, IMAGE], ids=["clip", "image"])
@pytest.mark.parametrize("name", STRATEGIES)
def test_ids_ascend_lie_in_the_clip_and_are_either_seen_or_predicted(name: str, grid: TokenGrid) -> None:
    for counter in range(3):
        masks = drawn(STRATEGIES[name], counter, grid=grid)
        assert len(masks) == built(STRATEGIES[name]).num_sets == len(STRATEGIES[name].sets)
        for one in masks:
            for ids in (one.context_BL, one.target_BM):
                assert ids.dtype == torch.int64
                assert len(ids) == NUM_CLIPS
                assert ids.shape[1] > 0
                assert (ids.diff(dim=1) > 0).all()
                assert ids.min() >= 0
                assert ids.max() < grid.num_tokens
            together = torch.cat([one.context_BL, one.target_BM], 1).sort(1).values
            assert (together.diff(dim=1) > 0).all(), "a token is both context and target"
            assert 0 <= one.lost_targets < 1
            assert 0 <= one.lost_context < 1


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_counter_and_its_generator_decide_the_masks(name: str) -> None:
    assert same(drawn(STRATEGIES[name], 4), drawn(STRATEGIES[name], 4))
    assert not same(drawn(STRATEGIES[name], 4), drawn(STRATEGIES[name], 4, generator=generator_of(4, seed=1)))
    first, second = drawn(STRATEGIES[name], 4), drawn(STRATEGIES[name], 5)
    shapes = [[(one.context_BL.shape, one.target_BM.shape) for one in masks] for masks in (first, second)]
    assert shapes[0] != shapes[1] or not same(first, second)


@pytest.mark.parametrize("name", STRATEGIES)
def test_masks_do_not_depend_on_the_number_of_workers(name: str) -> None:
    whole = drawn(STRATEGIES[name], 2)
    after_whole = generator_of(2)
    drawn(STRATEGIES[name], 2, generator=after_whole)
    # The last worker has no clip of this length.
    for rows in (slice(0, 3), slice(3, NUM_CLIPS), slice(NUM_CLIPS, NUM_CLIPS)):
        generator = generator_of(2)
        share = drawn(STRATEGIES[name], 2, rows=rows, generator=generator)
        for one, all_of_it in zip(share, whole, strict=True):
            assert torch.equal(one.context_BL, all_of_it.context_BL[rows])
            assert torch.equal(one.target_BM, all_of_it.target_BM[rows])
            assert (one.lost_targets, one.lost_context) == (all_of_it.lost_targets, all_of_it.lost_context)
        assert torch.equal(generator.get_state(), after_whole.get_state()), "the next draws would differ"


@pytest.mark.parametrize("name", EXACT)
def test_shares_are_exact_and_equal_in_all_strategies(name: str) -> None:
    # 24 places: 24 - floor(24 * .53) = 12 and floor(24 * .25) = 6, 24 - floor(24 * .3) = 17 and floor(24 * .0645) = 1.
    for one, (targets, context) in zip(drawn(EXACT[name]), [(12, 6), (17, 1)], strict=True):
        assert one.target_BM.shape == (NUM_CLIPS, targets * GRID.times)
        assert one.context_BL.shape == (NUM_CLIPS, context * GRID.times)
        assert one.lost_targets == one.lost_context == 0


def test_without_a_context_share_every_token_is_context_or_target() -> None:
    (masks,) = drawn(STRATEGIES["complement"])
    assert masks.target_BM.shape[1] == 18 * GRID.times
    together = torch.cat([masks.context_BL, masks.target_BM], 1).sort(1).values
    assert torch.equal(together, torch.arange(GRID.num_tokens).expand(NUM_CLIPS, -1))


@pytest.mark.parametrize("name", ["block", "tubes", "motion", "learned"])
def test_tubes_span_the_whole_clip(name: str) -> None:
    for one in drawn(EXACT[name]):
        for ids in (one.context_BL, one.target_BM):
            by_time = ids.view(NUM_CLIPS, GRID.times, -1) - torch.arange(GRID.times)[:, None] * GRID.num_places
            assert (by_time == by_time[:, :1]).all()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_draw_has_no_gradient_and_needs_no_other_cues(name: str) -> None:
    strategy, everything = built(STRATEGIES[name]), cues(NUM_CLIPS)
    assert everything.features_BLD is not None
    everything.features_BLD.requires_grad_()
    needed = Cues(
        everything.pixels_BTCYX if "pixels" in strategy.needs else None,
        everything.features_BLD if "features" in strategy.needs else None,
    )
    assert same(drawn(STRATEGIES[name], cues=needed), drawn(STRATEGIES[name]))


@pytest.mark.parametrize(("name", "expected"), [("motion", "pixels_BTCYX"), ("learned", "features_BLD")])
def test_a_missing_cue_is_named(name: str, expected: str) -> None:
    with pytest.raises(ConfigError, match=rf"masks\.name '{name}'.*Cues\({expected}"):
        drawn(EXACT[name], cues=Cues())


@pytest.mark.parametrize("name", EXACT)
def test_a_grid_that_is_too_small_for_the_shares_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"leave 7 targets and 0 context places of the 9 places of a frame \(3 x 3"):
        drawn(EXACT[name], grid=TokenGrid(2, 3, 3))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MaskConfig(sets=(BlockSetConfig(1, (1.0, 1.0), aspect_ratio=(0.6, 0.7)),)), "is the whole clip"),
        (MaskConfig(sets=(BlockSetConfig(1, (0.02, 0.02)),)), "has no patch"),
        (MaskConfig(name="block", sets=(AreaSetConfig(spatial_scale=(0.02, 0.02)),)), "has no patch"),
    ],
)
def test_blocks_that_fit_no_grid_are_refused(config: MaskConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawn(config)


def test_blocks_that_never_leave_a_context_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    # Blocks of 3 x 6 on a frame of 4 x 6: a row stays free only if all 60 blocks lie at the same end.
    config = MaskConfig(sets=(BlockSetConfig(60, (0.84, 0.84), aspect_ratio=(0.6, 0.6)),))
    monkeypatch.setattr("jepawm.pretraining.masks.multiblock.MOST_ROUNDS", 20)
    with pytest.raises(ConfigError, match="leave no context on a grid of 4 x 4 x 6 in 20 rounds"):
        drawn(config)


@pytest.mark.parametrize("name", STRATEGIES)
def test_settings_survive_the_journey_through_yaml(name: str) -> None:
    config = STRATEGIES[name]
    assert from_dict(MaskConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MaskConfig(sets=()), r"masks\.sets is empty"),
        (lambda: MaskConfig(name="tubes", sets=()), r"masks\.sets is empty"),
        (lambda: ShareSetConfig(1.0), r"masks\.sets\.target_share must lie in \(0, 1\), found 1\.0"),
        (lambda: ShareSetConfig(0.7, 0.4), r"target_share 0\.7 and context_share 0\.4 sum to more than 1"),
        (lambda: ShareSetConfig(0.7, 0.0), r"context_share must lie in \(0, 1\)"),
        (lambda: BlockSetConfig(spatial_scale=(0.7, 0.2)), r"spatial_scale must be two numbers with 0 < lowest"),
        (lambda: BlockSetConfig(max_temporal_keep=0.0), r"max_temporal_keep must lie in \(0, 1\]"),
        (lambda: BlockSetConfig(full_complement=True, pred_full_complement=True), "exclude each other"),
        (lambda: BlockSetConfig(num_blocks=0), r"masks\.sets\.num_blocks must be above 0"),
        (lambda: MaskConfig(name="motion", temperature=0.0), r"masks\.temperature must be above 0"),
        (lambda: MaskConfig(name="learned", curriculum_fraction=0.0), r"curriculum_fraction must lie in \(0, 1\]"),
    ],
)
def test_a_wrong_setting_is_named(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()
