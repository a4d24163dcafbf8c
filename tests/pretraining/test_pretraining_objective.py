"""The objective of pretraining: what is computed once, what is dropped, what depends on whom."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor

from jepawm.config import EncoderConfig
from jepawm.config.pretraining_model import (
    MaskPredictorConfig,
    PretrainingLossConfig,
    PretrainingModelConfig,
    TeacherConfig,
)
from jepawm.errors import ConfigError
from jepawm.pretraining import MaskedClips, Pretraining, build_pretraining
from jepawm.pretraining.masks import MaskSet
from jepawm.training.compute import checkpoint_activations_

SMALL = {"latent_dim": 24, "depth": 4, "num_heads": 2, "patch_size": 8}
PREDICTOR = MaskPredictorConfig(embed_dim=16, depth=2, num_heads=2, num_mask_tokens=2)
KINDS = ("vjepa1", "vjepa2", "vjepa2_1")
every = pytest.mark.parametrize("name", KINDS)


def build(name: str = "vjepa2", *, seed: int = 0, **loss: Any) -> Pretraining:
    torch.manual_seed(seed)
    encoder = EncoderConfig(name=name, **SMALL, normalization="imagenet", tokenization="clip")
    config = PretrainingModelConfig(encoder, PREDICTOR, PretrainingLossConfig(**loss))
    return build_pretraining(config, 32).double()


def clips_of(num_clips: int, frames: int = 4, side: int = 32, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_clips, 3, frames, side, side, dtype=torch.float64, generator=generator)


def group(pretraining: Pretraining, clips: Tensor, *, sets: int = 2, seed: int = 2, **given: Any) -> MaskedClips:
    """Half of the tokens visible, a third to predict, drawn for each clip and set."""
    grid = pretraining.token_grid(*clips.shape[2:])
    generator = torch.Generator().manual_seed(seed)
    mask_sets = []
    for _ in range(sets):
        order = torch.rand(len(clips), grid.num_tokens, generator=generator).argsort(dim=1)
        visible, masked = grid.num_tokens // 2, grid.num_tokens // 3
        mask_sets.append(
            MaskSet(order[:, :visible].sort(dim=1).values, order[:, visible : visible + masked].sort(dim=1).values)
        )
    return MaskedClips(clips, grid, tuple(mask_sets), **given)


def rows(whole: MaskedClips, part: slice, weight: float) -> MaskedClips:
    sets = tuple(MaskSet(masks.context_BL[part], masks.target_BM[part]) for masks in whole.mask_sets)
    return MaskedClips(whole.clips_BCTYX[part], whole.grid, sets, whole.mask_token, weight)


@every
def test_the_teacher_sees_a_clip_once_and_the_encoder_only_what_is_kept(name):
    pretraining = build(name)
    given = group(pretraining, clips_of(2))
    seen: dict[str, list[int]] = {"teacher": [], "encoder": []}
    for part, block in (
        ("teacher", pretraining.teacher.encoder.blocks[0]),
        ("encoder", pretraining.encoder.blocks[0]),
    ):
        block.register_forward_pre_hook(lambda _, args, part=part: seen[part].append(args[0].shape[1]))
    pretraining([given])
    tokens = given.grid.num_tokens
    assert seen == {"teacher": [tokens], "encoder": [tokens // 2, tokens // 2]}
    # What is neither visible nor a target cannot matter to what the encoder makes of the rest.
    context = given.mask_sets[0].context_BL
    with torch.no_grad():
        expected = pretraining.encoder.tokens(given.clips_BCTYX, context)
        hidden = torch.ones(2, tokens, dtype=torch.bool).scatter(1, context, False)
        grid = given.grid
        at = hidden.view(2, 1, grid.times, grid.rows, grid.columns)
        covered = at.repeat_interleave(2, 2).repeat_interleave(8, 3).repeat_interleave(8, 4)
        changed = torch.where(covered, torch.zeros(()).double(), given.clips_BCTYX)
        assert torch.equal(pretraining.encoder.tokens(changed, context), expected)


@every
def test_workers_with_other_shares_of_a_batch_add_up_to_one(name):
    """The mean over workers of their weighed losses and gradients is the loss and the gradient of the whole batch."""
    whole = build(name, context_weight=0.5, target_levels=4)
    split = copy.deepcopy(whole)
    groups = [group(whole, clips_of(3)), group(whole, clips_of(4, frames=2, seed=5), seed=6, mask_token=1)]
    loss = whole(groups).loss
    loss.backward()
    total = torch.zeros((), dtype=torch.float64)
    # Three clips as 1 + 2, four as 3 + 1.
    for parts in ((slice(0, 1), slice(0, 3)), (slice(1, 3), slice(3, 4))):
        share = [
            rows(each, part, weight=2 * len(each.clips_BCTYX[part]) / (len(each.clips_BCTYX) * 2))
            for each, part in zip(groups, parts, strict=True)
        ]
        own = split(share).loss / 2
        own.backward()
        total += own.detach()
    torch.testing.assert_close(total, loss.detach())
    for (key, one), other in zip(whole.named_parameters(), split.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None), key
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad, msg=key)


@every
def test_blocks_that_are_computed_again_have_the_same_gradients(name):
    kept = build(name, context_weight=0.5)
    again = copy.deepcopy(kept)
    # What `train.activation_checkpointing` of a pretraining does.
    checkpoint_activations_(again)
    runs = 0

    def count(*_: Any) -> None:
        nonlocal runs
        runs += 1

    again.encoder.blocks[0].mlp.register_forward_pre_hook(count)
    losses = []
    for pretraining in (kept, again):
        losses.append(pretraining([group(pretraining, clips_of(2))]).loss)
        losses[-1].backward()
    assert torch.equal(*losses)
    for one, other in zip(kept.parameters(), again.parameters(), strict=True):
        assert (one.grad is None and other.grad is None) or torch.equal(one.grad, other.grad)
    # Each of two mask sets, forward and again.
    assert runs == 4


def test_targets_that_are_given_are_not_computed_again():
    pretraining = build()
    given = group(pretraining, clips_of(2))
    targets = pretraining.targets(given.clips_BCTYX)
    expected = pretraining([given]).loss
    pretraining.teacher.forward = None  # type: ignore[assignment,method-assign]
    with_targets = MaskedClips(given.clips_BCTYX, given.grid, given.mask_sets, targets_BLE=targets)
    assert torch.equal(pretraining([with_targets]).loss, expected)


@every
def test_losses_of_tokens_are_what_the_loss_is_the_mean_of(name):
    pretraining = build(name, target_levels=4, exponent=1.5)
    given = group(pretraining, clips_of(2))
    terms = pretraining([given])
    for masks, losses, mean in zip(given.mask_sets, terms.target_losses[0], terms.set_losses[0], strict=True):
        assert losses.shape == masks.target_BM.shape
        assert not losses.requires_grad
        torch.testing.assert_close(losses.mean(), mean)
    torch.testing.assert_close(torch.stack(terms.set_losses[0]).mean(), terms.loss.detach())
    assert set(terms.scalars()) == {"loss", "prediction", "context"}
    assert pretraining.targets(given.clips_BCTYX).shape[2] == pretraining.target_dim == 4 * 24


@every
def test_only_encoder_and_predictor_train(name):
    pretraining = build(name).train()
    assert not pretraining.teacher.encoder.training
    terms = pretraining([group(pretraining, clips_of(2))])
    terms.loss.backward()
    assert all(value.grad is None and not value.requires_grad for value in pretraining.teacher.parameters())
    unused = {key for key, value in pretraining.named_parameters() if value.requires_grad and value.grad is None}
    # Another frame count's mask token; in V-JEPA 2.1 also images and the levels that are no targets.
    kinds = {key.split(".")[1] for key in unused}
    images = {"patch_embed_image", "image_vector", "norms"} if name == "vjepa2_1" else set()
    assert kinds == {"mask_tokens"} | images


@pytest.mark.parametrize("name", ["vjepa2", "vjepa2_1"])
def test_the_loss_of_visible_tokens_grows_into_the_total(name):
    pretraining = build(name, context_weight=0.5, context_from_step=10, context_full_step=20)
    given = [group(pretraining, clips_of(2))]
    for step, weight in ((0, 0.0), (10, 0.0), (15, 0.25), (20, 0.5), (99, 0.5)):
        terms = pretraining(given, step)
        torch.testing.assert_close(terms.loss.detach(), terms.prediction + weight * terms.context)
    assert terms.context > 0
    assert not build(name)(given).context.any()


def test_images_are_groups_of_their_own():
    pretraining = build("vjepa2_1", target_levels=4)
    images = group(pretraining, clips_of(2, frames=1), mask_token=1)
    assert images.grid.times == 1
    pretraining([group(pretraining, clips_of(2)), images]).loss.backward()
    assert all(value.grad is not None for key, value in pretraining.named_parameters() if value.requires_grad)
    with pytest.raises(ConfigError, match="even number of frames, found T = 1"):
        build("vjepa2").token_grid(1, 32, 32)


def test_the_teacher_follows_the_encoder_and_is_kept_in_the_state():
    pretraining = build()
    other = build(seed=1)
    before = copy.deepcopy(pretraining.teacher.encoder.state_dict())
    pretraining.encoder.load_state_dict(other.encoder.state_dict())
    pretraining.update_teacher(0.75)
    for key, value in pretraining.teacher.encoder.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[key] + 0.25 * other.encoder.state_dict()[key])
    restored = build(seed=2)
    restored.load_state_dict(pretraining.state_dict())
    given = [group(pretraining, clips_of(2))]
    assert torch.equal(restored(given).loss, pretraining(given).loss)


def test_the_momentum_moves_along_a_line():
    line = TeacherConfig(0.5, 0.9, 4)
    assert [line.momentum_at(step, 100) for step in (0, 1, 4, 50)] == pytest.approx([0.5, 0.6, 0.9, 0.9])
    assert TeacherConfig(0.5, 0.9).momentum_at(50, 100) == pytest.approx(0.7)
    with pytest.raises(ConfigError, match=r"momentum_steps has no meaning"):
        TeacherConfig(momentum_steps=10)
    with pytest.raises(ConfigError, match=r"model\.teacher\.momentum must lie in \[0, 1\], found 1\.1"):
        TeacherConfig(1.1)


def test_what_cannot_be_pretrained_is_refused():
    pretraining = build()
    with pytest.raises(ConfigError, match="at least one group of clips"):
        pretraining([])
    with pytest.raises(ConfigError, match=r"target_levels must lie in \[1, 4\].*found 5"):
        build("vjepa2", target_levels=5)
    with pytest.raises(ConfigError, match=r"target_levels of vjepa2_1 must be 1 or 4, found 2"):
        build("vjepa2_1", target_levels=2)
    with pytest.raises(ConfigError, match="context_full_step"):
        PretrainingLossConfig(context_weight=0.5, context_from_step=10)
    with pytest.raises(ConfigError, match=r"context_distance has no meaning for model\.loss\.context_weight 0"):
        PretrainingLossConfig(context_distance="none")
    for settings, problem in (
        ({"name": "vit"}, "must be a video encoder"),
        ({"name": "vjepa2", "trainable": False}, "trains its encoder"),
        ({"name": "vjepa2", "layer": 2}, "trains all blocks"),
        ({"name": "vjepa2", "projector_dim": 8}, "no projector"),
        ({"name": "vjepa2", "normalization": "data"}, "use 'imagenet'"),
        ({"name": "vjepa2", "resize_to": 64}, r"resize_to has no meaning for a pretraining"),
        ({"name": "vjepa2", "resize": "antialias"}, r"resize has no meaning for a pretraining"),
        ({"name": "vjepa2", "tokenization": "duplicated"}, r"tokenization 'duplicated' has no meaning"),
        ({"name": "vjepa2_1", "tokenization": "image"}, r"tokenization 'image' has no meaning"),
    ):
        with pytest.raises(ConfigError, match=problem):
            PretrainingModelConfig(EncoderConfig(**settings))
