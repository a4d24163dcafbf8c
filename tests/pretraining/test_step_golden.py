"""Updates of V-JEPA 2 against golden vectors: losses, gradients, AdamW over its groups, and the teacher's update."""

from pathlib import Path
from typing import Any

import pytest
import torch
from golden_models import CLOSE, golden_pretraining, masks_of, our_name, pixels, read, under
from torch import Tensor

from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.config.pretraining_model import TeacherConfig
from jepawm.pretraining import MaskedClips, Pretraining, PretrainingTerms
from jepawm.training.optim import build_optimizer, schedule_

GRADIENTS = {"rtol": 1e-3, "atol": 1e-6}
# AdamW's first update moves a weight by the learning rate times the sign of its gradient: where the gradient is all
# but zero the sign is noise, and the two weights differ by up to twice the rate.
WEIGHT_ATOL, SIGN_SHARE = 2e-6, 0.005


@pytest.fixture(scope="module")
def files(golden: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    return read(golden, "step")


@pytest.fixture
def pretraining(files) -> Pretraining:
    return golden_pretraining(*files, "vjepa2", "before.")


def batch(pretraining: Pretraining, tensors: dict[str, Tensor], step: int) -> list[MaskedClips]:
    clip = pixels(tensors["clip"])
    grid = pretraining.token_grid(*clip.shape[2:])
    return [MaskedClips(clip, grid, tuple(masks_of(tensors, f"step{step}.{name}") for name in "AB"))]


def optim_of(published: dict[str, Any]) -> tuple[OptimConfig, int]:
    """The optimizer of a golden run, and its train steps."""
    per_epoch = published["iterations_per_epoch"]
    num_train_steps = published["num_epochs"] * per_epoch
    peak = published["ref_lr"]
    schedule = ScheduleConfig(
        name="vjepa_cosine",
        start_fraction=published["start_lr"] / peak if published["warmup"] else 0.0,
        warmup_steps=published["warmup"] * per_epoch,
        final_fraction=published["final_lr"] / peak,
        stretch=published["ipe_scale"],
    )
    optim = OptimConfig(
        learning_rate=peak,
        schedule=schedule,
        weight_decay=published["wd"],
        final_weight_decay=published["final_wd"],
        weight_decay_steps=int(published["ipe_scale"] * num_train_steps),
        decayed="matrices",
        betas=tuple(published["betas"]),
        eps=published["eps"],
        grad_clip_norm=None,
    )
    return optim, num_train_steps


def teacher_of(published: dict[str, Any]) -> TeacherConfig:
    first, last = published["ema"]
    steps = published["ipe_scale"] * published["num_epochs"] * published["iterations_per_epoch"]
    if first == last:
        return TeacherConfig(momentum=first)
    return TeacherConfig(momentum=first, final_momentum=last, momentum_steps=round(steps))


def update(pretraining: Pretraining, optimizer, config, groups, k: int) -> PretrainingTerms:
    """One update as a training does it; `config` holds the optimizer's, the number of train steps, the teacher's."""
    optim, num_train_steps, teacher = config
    schedule_(optimizer, optim, k, num_train_steps)
    optimizer.zero_grad(set_to_none=True)
    terms = pretraining(groups, k)
    terms.loss.backward()
    optimizer.step()
    pretraining.update_teacher(teacher.momentum_at(k, num_train_steps))
    return terms


def assert_norms(pretraining: Pretraining, norms: dict[str, float]) -> None:
    """The norm of all weights of each network after an update."""
    parts = {
        "encoder": pretraining.encoder,
        "predictor": pretraining.predictor,
        "target": pretraining.teacher.encoder,
    }
    found = {
        name: torch.stack([value.norm() for value in part.parameters()]).norm().item() for name, part in parts.items()
    }
    assert found == pytest.approx(norms, rel=1e-5)


@torch.no_grad()
def test_predictions_and_targets(files, pretraining):
    tensors, _ = files
    groups = batch(pretraining, tensors, 1)
    targets = pretraining.targets(groups[0].clips_BCTYX)
    embedded = pretraining.encoder.embed(groups[0].clips_BCTYX)
    for name, masks in zip("AB", groups[0].mask_sets, strict=True):
        context = pretraining.encoder.levels(embedded, masks.context_BL)
        predicted, _ = pretraining.predictor(context, masks, groups[0].grid)
        torch.testing.assert_close(predicted, tensors[f"step1.{name}.predicted"], **CLOSE)
        own = targets.take_along_dim(masks.target_BM[:, :, None], dim=1)
        torch.testing.assert_close(own, tensors[f"step1.{name}.target"], **CLOSE)


@pytest.mark.parametrize(("exponent", "key"), [(1.0, "loss"), (1.5, "loss_exp_1.5"), (2.0, "loss_exp_2")])
@torch.no_grad()
def test_losses_of_three_exponents(files, exponent, key):
    tensors, settings = files
    pretraining = golden_pretraining(*files, "vjepa2", "before.", exponent=exponent)
    expected = settings["runs"]["published"]["steps"][0]
    terms = pretraining(batch(pretraining, tensors, 1))
    assert terms.loss.item() == pytest.approx(expected[key], rel=1e-4)
    if exponent == 1.0:
        for found, name in zip(terms.set_losses[0], "AB", strict=True):
            assert found.item() == pytest.approx(expected[f"loss_{name}"], rel=1e-4)


def test_gradients_of_the_first_update(files, pretraining):
    tensors, settings = files
    expected = settings["runs"]["published"]["steps"][0]
    pretraining(batch(pretraining, tensors, 1)).loss.backward()
    gradients = {name: value.grad for name, value in pretraining.named_parameters()}
    assert all(value is None for name, value in gradients.items() if name.startswith("teacher"))
    for key, norm in expected["grad_norms"].items():
        gradient = gradients[our_name(key)]
        if norm is None:
            assert gradient is None, key
        else:
            assert gradient.norm().item() == pytest.approx(norm, rel=1e-3, abs=1e-6), key
    for key, value in under(tensors, "step1.grad.").items():
        torch.testing.assert_close(gradients[our_name(key)], value, **GRADIENTS)


def test_decayed_parameters_are_the_published_ones(files, pretraining):
    _, settings = files
    optimizer = build_optimizer(pretraining, optim_of(settings["runs"]["published"]["optimization"])[0])
    names = {id(value): name for name, value in pretraining.named_parameters()}
    decayed = {names[id(value)] for group in optimizer.param_groups if group["decayed"] for value in group["params"]}
    others = {names[id(value)] for group in optimizer.param_groups if not group["decayed"] for value in group["params"]}
    for group in settings["groups"]:
        own = {our_name(key) for key in group["names"]}
        assert own <= (others if group["excluded_from_weight_decay"] else decayed)
    assert len(decayed) + len(others) == sum(len(group["names"]) for group in settings["groups"])


@pytest.mark.parametrize("run", ["published", "loud"])
def test_updates(files, pretraining, run):
    """Rates, decay, losses and weights of every update; the teacher moves last, towards the new encoder."""
    tensors, settings = files
    published = settings["runs"][run]["optimization"]
    optim, num_train_steps = optim_of(published)
    optimizer = build_optimizer(pretraining, optim)
    teacher = teacher_of(published)
    for k, expected in enumerate(settings["runs"][run]["steps"]):
        groups = batch(pretraining, tensors, k + 1)
        terms = update(pretraining, optimizer, (optim, num_train_steps, teacher), groups, k)
        for group in optimizer.param_groups:
            assert group["lr"] == pytest.approx(expected["lr"], rel=1e-9)
            assert group["weight_decay"] == pytest.approx(expected["wd"] if group["decayed"] else 0.0, rel=1e-9)
        assert teacher.momentum_at(k, num_train_steps) == pytest.approx(expected["momentum"], rel=1e-9)
        assert terms.loss.item() == pytest.approx(expected["loss"], rel=1e-4)
        assert_norms(pretraining, expected["param_norm_after"])
        # `published` holds all weights after its first update, `loud` some after each.
        prefix = f"after{k + 1}." if run == "published" else f"loud{k + 1}."
        theirs = under(tensors, prefix)
        if theirs:
            weights = pretraining.state_dict()
            apart = torch.cat([(weights[our_name(key)] - value).abs().flatten() for key, value in theirs.items()])
            assert apart.max() <= 2 * (k + 1) * expected["lr"]
            assert (apart > WEIGHT_ATOL).float().mean() <= SIGN_SHARE


def test_two_frame_counts_use_two_mask_tokens(files, pretraining):
    tensors, settings = files
    clip = pixels(tensors["clip"])
    groups = []
    for number, (frames, clips) in enumerate(((8, clip[:1]), (4, clip[1:, :, :4]))):
        sets = tuple(masks_of(tensors, f"mixed.f{frames}.{name}") for name in "AB")
        groups.append(MaskedClips(clips, pretraining.token_grid(frames, 24, 24), sets, mask_token=number))
    terms = pretraining(groups)
    assert terms.loss.item() == pytest.approx(settings["mixed"]["loss"], rel=1e-4)
    found = [loss.item() for losses in terms.set_losses for loss in losses]
    assert found == pytest.approx(settings["mixed"]["terms_group_major"], rel=1e-4)
    with torch.no_grad():
        for group, frames in zip(groups, (8, 4), strict=True):
            embedded = pretraining.encoder.embed(group.clips_BCTYX)
            for name, masks in zip("AB", group.mask_sets, strict=True):
                context = pretraining.encoder.levels(embedded, masks.context_BL)
                predicted, _ = pretraining.predictor(context, masks, group.grid, mask_token=group.mask_token)
                torch.testing.assert_close(predicted, tensors[f"mixed.f{frames}.{name}.predicted"], **CLOSE)
    terms.loss.backward()
    used = [token.grad is not None for token in pretraining.predictor.mask_tokens]
    assert used == [True, True, False, False, False, False]
