"""Multi-block masks and random tubes against golden vectors: the same draws give exactly the same tokens."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepawm.config.masking import BlockSetConfig, MaskConfig, ShareMaskConfig, ShareSetConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.recipe_files import recipe_layers
from jepawm.config.yaml_io import resolve
from jepawm.pretraining.masks import Cues, MaskStrategy, TokenGrid, build_masks, mean_shares
from jepawm.pretraining.masks.multiblock import BlockSize, block_size, draw_corners, union_of_blocks
from jepawm.pretraining.masks.sampling import mask_set_of, places_of

VIDEO = ["video_256_16f", "video_256_16f_seed0", "small_64_16f", "small_64_16f_resumed", "cooldown_384_64f"]
CASES = [*VIDEO, "mixed_64", "image_256", "options_64"]


@pytest.fixture(scope="module")
def settings(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "pretraining" / "masks.json").read_text())


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, np.ndarray]:
    with np.load(golden / "pretraining" / "masks.npz") as file:
        return dict(file)


def published(case: dict[str, Any]) -> MaskStrategy:
    sets = tuple(
        BlockSetConfig(**{key: tuple(value) if isinstance(value, list) else value for key, value in one.items()})
        for one in case["sets"].values()
    )
    return build_masks(MaskConfig(name="multiblock", sets=sets), latent_dim=8)


def grid_of(case: dict[str, Any], frames: int) -> TokenGrid:
    side = case["crop"] // case["patch"]
    return TokenGrid(frames // case["tubelet"], side, side)


@pytest.mark.parametrize("name", CASES)
def test_the_tokens_are_the_published_ones(name: str, settings: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
    case = settings["cases"][name]
    strategy = published(case)
    generator = torch.Generator().manual_seed(case["torch_seed"])
    counters = Counter({frames: case.get("steps_before", 0) for frames in case["fpcs"]})
    compared = set()
    for batch, lengths in enumerate(case["batches"]):
        for frames in dict.fromkeys(case["fpcs"]):
            num_clips = lengths.count(frames)
            if not num_clips:
                continue
            masks = strategy.draw(
                grid_of(case, frames),
                num_clips=num_clips,
                rows=slice(0, num_clips),
                counter=counters[frames],
                generator=generator,
                cues=Cues(),
            )
            counters[frames] += 1
            for name_of_set, one in zip(case["sets"], masks, strict=True):
                key = f"{name}.{batch}.f{frames}.{name_of_set}"
                np.testing.assert_array_equal(one.context_BL.numpy(), arrays[f"{key}.enc"].astype(np.int64))
                np.testing.assert_array_equal(one.target_BM.numpy(), arrays[f"{key}.pred"].astype(np.int64))
                compared |= {f"{key}.enc", f"{key}.pred"}
    assert compared == {key for key in arrays if key.startswith(f"{name}.") and not key.endswith("draws")}


def test_block_sizes_follow_the_counter_as_published(settings: dict[str, Any]) -> None:
    sets = settings["cases"]["video_256_16f"]["sets"]
    for name in ("A", "B"):
        config = BlockSetConfig(sets[name]["num_blocks"], tuple(sets[name]["spatial_scale"]))
        expected = settings["block_sizes"][f"256.{name}"]
        found = [block_size(config, TokenGrid(8, 16, 16), counter) for counter in range(len(expected))]
        assert [[one.times, one.rows, one.columns] for one in found] == expected
        assert len(expected) == 40


def test_stored_draws_give_the_published_tokens_without_a_generator(arrays: dict[str, np.ndarray]) -> None:
    grid, case = TokenGrid(8, 4, 4), "small_64_16f.0"
    draws = torch.from_numpy(arrays[f"{case}.draws"].astype(np.int64))
    at = 0
    for name, config in (("A", BlockSetConfig()), ("B", BlockSetConfig(2, (0.7, 0.7)))):
        accepted: list[torch.Tensor] = []
        while len(accepted) < 4:
            corners = draws[None, at : at + config.num_blocks]
            at += config.num_blocks
            hidden = union_of_blocks(corners, block_size(config, grid, 0), grid)[0]
            accepted += [] if hidden.all() else [hidden]
        keep = min(int((~one).sum()) for one in accepted)
        found = torch.stack([(~one).nonzero()[:keep, 0] for one in accepted])
        np.testing.assert_array_equal(found.numpy(), arrays[f"{case}.f16.{name}.enc"])
    assert at == len(draws) > 4 * (8 + 2), "the case has attempts that were refused"


def test_drawing_all_blocks_at_once_is_drawing_one_after_the_other() -> None:
    grid, size = TokenGrid(8, 16, 16), BlockSize(3, 5, 6)
    at_once, looped = torch.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    # 15 words, 36 words, 147 words: odd and even.
    for num_clips, num_blocks in ((5, 1), (4, 3), (7, 7)):
        expected = [
            [[int(torch.randint(0, end, (1,), generator=looped)) for end in (12, 11, 6)] for _ in range(num_blocks)]
            for _ in range(num_clips)
        ]
        assert draw_corners(num_clips, num_blocks, size, grid, at_once).tolist() == expected
        assert torch.equal(at_once.get_state(), looped.get_state())


@pytest.mark.parametrize("name", ["tube_256", "tube_64"])
def test_shuffled_places_give_the_tubes_of_the_first_v_jepa(
    name: str, settings: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
    case = settings["cases"][name]
    grid = grid_of(case, case["frames"])
    targets, context = places_of(ShareSetConfig(case["ratio"]), grid)
    random = np.random.RandomState(case["numpy_seed"])
    for batch in range(case["batches"]):
        for at in range(case["sets"]):
            # As published: a list of zeros, which are hidden, and ones is shuffled for each clip.
            visible = np.tile(np.repeat([0.0, 1.0], [targets, context]), (case["clips"], 1))
            for flags in visible:
                random.shuffle(flags)
            masks = mask_set_of(
                torch.from_numpy(visible == 0),
                (targets, context),
                grid,
                num_clips=case["clips"],
                rows=slice(None),
                generator=torch.Generator(),
            )
            np.testing.assert_array_equal(masks.context_BL.numpy(), arrays[f"{name}.{batch}.{at}.enc"])
            np.testing.assert_array_equal(masks.target_BM.numpy(), arrays[f"{name}.{batch}.{at}.pred"])


def test_the_published_sets_realise_the_measured_shares() -> None:
    """The means over 200 batches that docs/masking.md names: a grid of 16 x 16, batches of 24 clips."""
    found = mean_shares(
        build_masks(MaskConfig(), 8),
        TokenGrid(2, 16, 16),
        num_clips=24,
        num_batches=100,
        generator=torch.Generator().manual_seed(0),
    )
    expected = [(0.25, 0.47, 0.23), (0.064, 0.70, 0.13)]
    for one, (context, target, lost) in zip(found, expected, strict=True):
        # Half a point for the rounding of what is expected, and half a point for the noise of a hundred batches.
        assert one.context_share == pytest.approx(context, abs=0.01)
        assert one.target_share == pytest.approx(target, abs=0.01)
        assert one.lost_targets == pytest.approx(lost, abs=0.01)


@pytest.mark.parametrize("strategy", ["tubes", "motion", "learned"])
def test_the_tiny_recipes_of_other_masks_have_the_shares_of_multiblock(strategy: str) -> None:
    tiny, other = (
        resolve(PretrainConfig, recipe_layers(f"pretrain/{name}"))[0] for name in ("tiny", f"tiny_{strategy}")
    )
    (stage,) = tiny.stages
    assert replace(other, masks=tiny.masks) == tiny, "the arms differ in their masks alone"
    assert other.masks.name == strategy
    side = stage.image_size // tiny.model.encoder.patch_size
    grid = TokenGrid(stage.num_frames // 2, side, side)
    published = mean_shares(
        build_masks(tiny.masks, 8),
        grid,
        num_clips=stage.batch_size,
        num_batches=100,
        generator=torch.Generator().manual_seed(0),
    )
    assert isinstance(other.masks, ShareMaskConfig)
    for share, one in zip(other.masks.sets, published, strict=True):
        targets, context = places_of(share, grid)
        # The nearest whole number of places, and a quarter of a place for the noise of a hundred batches.
        assert abs(targets - one.target_share * grid.num_places) < 0.75
        assert abs(context - one.context_share * grid.num_places) < 0.75


def test_a_context_of_one_token_is_a_context() -> None:
    """The published code fails on it."""
    config = MaskConfig(sets=(BlockSetConfig(max_keep=1),))
    (masks,) = build_masks(config, 8).draw(
        TokenGrid(2, 4, 4),
        num_clips=3,
        rows=slice(0, 3),
        counter=0,
        generator=torch.Generator().manual_seed(0),
        cues=Cues(),
    )
    assert masks.context_BL.shape == (3, 1)
