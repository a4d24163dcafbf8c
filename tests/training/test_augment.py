"""One crop and one flip for all frames of a clip, at the size of the stage."""

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from jepawm.config.clips import AugmentConfig
from jepawm.pictures import square
from jepawm.training.augment import Augmentation, augment, draw_augmentation

NOTHING = AugmentConfig(crop=False, flip=False)


def drawn(config: AugmentConfig, slot: int, *, height: int = 60, width: int = 80) -> Augmentation:
    return draw_augmentation(config, height=height, width=width, seed=1, train_step=2, slot=slot)


def clip(frames: int = 4, height: int = 60, width: int = 80) -> torch.Tensor:
    """Noise that lies channels last in memory, as frames are decoded."""
    noise = np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return torch.from_numpy(noise).permute(0, 3, 1, 2)


def test_an_augmentation_depends_on_seed_train_step_and_slot() -> None:
    config = AugmentConfig()
    size = {"height": 60, "width": 80}
    one = draw_augmentation(config, **size, seed=1, train_step=2, slot=3)
    assert one == draw_augmentation(config, **size, seed=1, train_step=2, slot=3)
    for changes in ({"seed": 2}, {"train_step": 3}, {"slot": 4}):
        assert one != draw_augmentation(config, **{**size, "seed": 1, "train_step": 2, "slot": 3, **changes})


def test_crops_have_the_areas_and_aspects_that_were_asked_for() -> None:
    config = AugmentConfig()
    crops = [drawn(config, slot, height=600, width=800) for slot in range(600)]
    areas = np.array([crop.height * crop.width for crop in crops]) / (600 * 800)
    aspects = np.array([crop.width / crop.height for crop in crops])
    # Sides are rounded to whole pixels, of which there are 280 or more.
    assert 0.3 * 0.995 < areas.min() < 0.31
    # The largest rectangles fit into the frame at few aspects only.
    assert 0.85 < areas.max() <= 1
    assert 0.75 * 0.995 < aspects.min() < 0.78
    assert 1.31 < aspects.max() < 1.35 * 1.005
    for crop in crops:
        assert 0 <= crop.top <= 600 - crop.height
        assert 0 <= crop.left <= 800 - crop.width
    # Half are mirrored: five standard deviations of 600 are 61.
    assert abs(sum(crop.flip for crop in crops) - 300) < 62


def test_a_frame_that_no_rectangle_fits_gives_its_middle() -> None:
    config = AugmentConfig(crop_scale=(0.9, 1.0), flip=False)
    assert drawn(config, 0, height=20, width=200) == Augmentation(0, 86, 20, 27, False)
    assert drawn(config, 0, height=200, width=20) == Augmentation(86, 0, 27, 20, False)
    assert drawn(AugmentConfig(), 0, height=1, width=1).height == 1


def test_augmentations_can_be_switched_off() -> None:
    assert drawn(NOTHING, 0) == Augmentation(0, 10, 60, 60, False)
    no_crop, no_flip = dataclasses.replace(NOTHING, flip=True), dataclasses.replace(NOTHING, crop=True)
    assert {drawn(no_crop, slot).flip for slot in range(20)} == {False, True}
    assert {drawn(no_flip, slot).flip for slot in range(20)} == {False}
    # The crop of a clip does not depend on whether clips are mirrored.
    for slot in range(10):
        assert dataclasses.replace(drawn(AugmentConfig(), slot), flip=False) == drawn(no_flip, slot)


@pytest.mark.parametrize("size", [32, 96])
def test_resizing_is_that_of_torch_in_floats_but_for_rounding(size: int) -> None:
    chosen = Augmentation(5, 7, 40, 50, False)
    frames = clip()
    expected = F.interpolate(
        frames[:, :, 5:45, 7:57].double(), size=(size, size), mode="bilinear", align_corners=False, antialias=True
    )
    found = augment(frames, chosen, size)
    assert found.dtype == torch.uint8
    assert found.shape == (4, 3, size, size)
    # Rows and columns are resized one after the other, each rounded to half a level with weights of 15 bits or so.
    assert (found.double() - expected).abs().max() < 1.5
    mirrored = augment(frames, dataclasses.replace(chosen, flip=True), size)
    torch.testing.assert_close(mirrored, found.flip(-1), rtol=0, atol=0)


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_all_frames_of_a_clip_are_changed_alike(memory: torch.memory_format) -> None:
    still = clip(frames=1).expand(5, -1, -1, -1).contiguous(memory_format=memory)
    for slot in range(5):
        found = augment(still, drawn(AugmentConfig(), slot), 24)
        torch.testing.assert_close(found, found[:1].expand_as(found), rtol=0, atol=0)


def test_without_augmentation_a_square_of_the_size_is_left_as_it_is() -> None:
    frames = clip(height=48, width=64)
    expected = square(frames.permute(0, 2, 3, 1).numpy(), 48)
    found = augment(frames, drawn(NOTHING, 0, height=48, width=64), 48)
    np.testing.assert_array_equal(found.permute(0, 2, 3, 1).numpy(), expected)
