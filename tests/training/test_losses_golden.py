"""The published training step: losses, gradients, optimiser steps, schedules and parameter groups."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from jepawm.checkpoints.zoo import predictor_key, strip_wrappers
from jepawm.config.loss import DistanceConfig, RolloutLossConfig
from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.hub import world_model_from_published
from jepawm.latent import Latent
from jepawm.training.optim import build_optimizer, schedule_
from jepawm.training.schedules import learning_rate, weight_decay
from jepawm.training.supervision import Draws, first_predictions, prediction_terms

GROUPS = {
    "dino_wm_droid_8frames": ["k1", "k6_t1", "k6_t1_through"],
    "dino_wm_pusht": ["k1", "k2_t1", "k3", "k3_through", "k1_no_proprio_loss"],
    "jepa_wm_droid": ["k1", "k2_t1", "k3_through"],
    "jepa_wm_wall": [
        *("k1", "k2_t0", "k2_t1", "k2_first", "k2_all", "k3", "k2_through", "k3_through", "k2_l1", "k2_cos"),
        *("k2_smooth_l1", "k2_mixed", "k2_no_proprio_loss", "k2_true_proprio", "k2_true_proprio_cos"),
        *("k3_parallel", "k3_parallel_through", "k3_parallel_coins", "k2_both"),
    ],
    "jepa_wm_wall_8frames": ["k6_t0", "k6_t1", "k6_all", "k6_t1_through", "k3_t4", "k2_t5_window2"],
    "vjepa2_ac_droid": ["k2", "k2_stop", "k3"],
    "vjepa2_ac_feature": ["k2_t1", "k3_through"],
    "vjepa2_ac_oss": ["k2", "k3"],
}
CLOSE = {"rtol": 1e-4, "atol": 1e-6}
AFTER_ADAM = {"rtol": 1e-3, "atol": 1e-4}


class Group:
    """One group of vectors, with its model in evaluation mode (no dropout), as the vectors were made."""

    def __init__(self, golden: Path, name: str) -> None:
        self.config = json.loads((golden / "losses" / name / "config.json").read_text())
        self.io = load_file(golden / "losses" / name / "io.safetensors")
        folder = golden / self.config["model"]
        model_config = json.loads((folder / "config.json").read_text())
        self.model = world_model_from_published(model_config, folder / "checkpoint.pth.tar").eval()
        if "pos_embedding" in self.io:
            self.model.predictor.positions = nn.Parameter(self.io["pos_embedding"])
            self.model.predictor.num_frames = self.config["T"]
        self.model.requires_grad_(True)

    def latents(self) -> Latent:
        proprio = self.io.get("proprio") if self.model.uses_proprio else None
        return Latent(self.io["visual"].flatten(2, 4), self.model.encode_proprio(proprio))

    def actions(self) -> Tensor:
        # The published code feeds one more action, whose prediction it does not score.
        return self.io["actions"][:, :-1]

    def parameters(self) -> dict[str, nn.Parameter]:
        """Ours by their published names, in the published order."""
        ours = dict(self.model.named_parameters())
        return {name: ours[our_name(name)] for name in self.config["params"]}


def our_name(published: str) -> str:
    part, _, rest = published.partition(".")
    if part == "predictor":
        key = predictor_key(rest)
        assert key is not None
        return f"predictor.{key}"
    prefix = {"action_encoder": "predictor.action", "proprio_encoder": "proprio_encoder"}[part]
    return f"{prefix}.{strip_wrappers(rest).removeprefix('patch_embed.')}"


def loss_config(case: dict[str, Any]) -> RolloutLossConfig:
    weights = {"cos": "cosine"}
    return RolloutLossConfig(
        distance=DistanceConfig(**{"l2": 0.0, **{weights.get(k, k): v for k, v in case["weights"].items()}}),
        proprio_prediction=float(case["proprio_loss"]),
        rollout_steps=case["rollout_steps"],
        prefixes=case["train_rollout_prefixes"],
        rollout_window=case["ctxt_window_train_rollout"],
        backpropagation="truncated" if case["rollout_stop_gradient"] else "full",
        rollout_proprio="true" if case["proprio_rollout_mode"] == "use_ground_truth" else "predicted",
        sequential=case["do_sequential_rollout"],
        parallel=case["do_parallel_rollout"],
        parallel_actions="published",
        true_frame_probability=case["gt_prob"],
    )


def terms_of(group: Group, case: dict[str, Any], prefixes: list[int], coins: list[Tensor] | None) -> dict[str, Tensor]:
    config, latents = loss_config(case), group.latents()
    draws = Draws(prefixes, None if coins is None else [coin < case["gt_prob"] for coin in coins])
    predicted = first_predictions(group.model, config, latents, group.actions())
    return prediction_terms(group.model, config, predicted, (latents, latents), group.actions(), draws)


def total(terms: dict[str, Tensor]) -> Tensor:
    return terms["prediction"] + terms.get("proprio_prediction", torch.zeros(()))


@pytest.fixture(scope="module")
def groups(golden: Path) -> dict[str, Group]:
    return {name: Group(golden, name) for name in GROUPS}


@pytest.mark.parametrize(("name", "case"), [(name, case) for name, cases in GROUPS.items() for case in cases])
def test_losses_and_gradients_are_the_published_ones(name: str, case: str, groups: dict[str, Group]) -> None:
    group = groups[name]
    options, io = group.config["cases"][case], group.io
    coins = [io[key] for key in sorted(key for key in io if key.startswith(f"{case}.coin."))]
    group.model.zero_grad(set_to_none=True)
    terms = terms_of(group, options, options["prefixes"], coins or None)
    torch.testing.assert_close(total(terms)[None], io[f"{case}.total"], **CLOSE)
    total(terms).backward()
    gradients = {
        name: torch.zeros(()) if parameter.grad is None else parameter.grad
        for name, parameter in group.parameters().items()
    }
    norms = torch.stack([gradient.norm() for gradient in gradients.values()])
    torch.testing.assert_close(norms.norm()[None], io[f"{case}.grad_norm"], **CLOSE)
    if f"{case}.grad_norms" in io:
        torch.testing.assert_close(norms, io[f"{case}.grad_norms"], **CLOSE)
    whole = [key for key in io if key.startswith(f"{case}.grad.")]
    for key in whole:
        gradient = gradients[key.removeprefix(f"{case}.grad.")]
        torch.testing.assert_close(gradient, io[key].reshape(gradient.shape), **CLOSE)


def test_every_case_is_tested(golden: Path) -> None:
    for name, cases in GROUPS.items():
        found = json.loads((golden / "losses" / name / "config.json").read_text())["cases"]
        assert set(cases) == {case for case in found if not case.startswith("train_")}, name


def test_each_step_of_an_unroll_is_measured(groups: dict[str, Group]) -> None:
    group = groups["jepa_wm_wall_8frames"]
    terms = terms_of(group, group.config["cases"]["k6_t1"], [1], None)
    steps = group.io["k6_t1.steps.visual_l2_loss"]
    found = torch.stack([terms[f"prediction_after_{k}"] for k in range(2, 7)])
    torch.testing.assert_close(found, steps[1:], **CLOSE)


# -- the optimiser ---------------------------------------------------------------------------------------------------


def optim_config(options: dict[str, Any]) -> tuple[OptimConfig, int]:
    """Our configuration of a published schedule, and its train steps."""
    per_epoch, peak = options["iterations_per_epoch"], options["ref_lr"]
    warmup = int(options["warmup"] * per_epoch)
    end = int(options["ipe_scale"] * options["num_epochs"] * per_epoch)
    shares = {"start_fraction": options["start_lr"] / peak, "final_fraction": options["final_lr"] / peak}
    if options.get("use_wsd_schedule"):
        anneal = warmup if options["anneal_steps"] is None else options["anneal_steps"]
        schedule = ScheduleConfig(name="wsd", warmup_steps=warmup, decay_steps=anneal, **shares)
    elif shares == {"start_fraction": 1.0, "final_fraction": 1.0}:
        assert warmup == 0
        schedule = ScheduleConfig(name="constant")
    else:
        schedule = ScheduleConfig(name="vjepa_cosine", warmup_steps=warmup, **shares)
    config = OptimConfig(
        learning_rate=peak,
        schedule=schedule,
        weight_decay=options["weight_decay"],
        final_weight_decay=options["final_weight_decay"],
        decayed="matrices",
        betas=tuple(options["betas"]),
        eps=options["eps"],
    )
    return config, end


def test_schedules_are_the_published_ones(golden: Path) -> None:
    settings = json.loads((golden / "losses" / "schedules" / "config.json").read_text())["schedules"]
    io = load_file(golden / "losses" / "schedules" / "io.safetensors")
    assert len(settings) == 8
    for name, options in settings.items():
        config, end = optim_config(options)
        # Past its end the published rate climbs again, or becomes negative; ours has no step there.
        inside = [n for n, step in enumerate(io[f"{name}.steps"].tolist()) if 1 <= step <= end]
        assert inside
        steps = [int(io[f"{name}.steps"][n]) - 1 for n in inside]
        rates = torch.tensor([learning_rate(config, step, end) for step in steps], dtype=torch.float64)
        decays = torch.tensor([weight_decay(config, step, end) for step in steps], dtype=torch.float64)
        torch.testing.assert_close(rates, io[f"{name}.lr"][inside], rtol=1e-9, atol=1e-15, msg=name)
        torch.testing.assert_close(decays, io[f"{name}.wd"][inside], rtol=1e-9, atol=1e-15, msg=name)


def test_parameter_groups_are_the_published_ones(golden: Path) -> None:
    published = json.loads((golden / "losses" / "schedules" / "config.json").read_text())
    for name, expected in published["parameter_groups"].items():
        folder = golden / name
        model = world_model_from_published(
            json.loads((folder / "config.json").read_text()), folder / "checkpoint.pth.tar"
        )
        names = {parameter: key for key, parameter in model.requires_grad_(True).named_parameters()}
        built = build_optimizer(model, OptimConfig(decayed="matrices", weight_decay=0.1))
        for decayed in (True, False):
            wanted = {our_name(key) for group in expected if group["decayed"] == decayed for key in group["params"]}
            found = {names[p] for group in built.param_groups if group["decayed"] == decayed for p in group["params"]}
            assert found == wanted, name
        assert {group["weight_decay"] for group in built.param_groups if group["decayed"]} == {0.1}
        assert {group["weight_decay"] for group in built.param_groups if not group["decayed"]} == {0.0}


@pytest.mark.parametrize("case", ["train_jepa", "train_ac"])
def test_three_steps_of_training_are_the_published_ones(case: str, golden: Path) -> None:
    group = Group(golden, "jepa_wm_wall")
    options, io = group.config["cases"][case], group.io
    config, num_train_steps = optim_config(options["optimizer"])
    optimizer = build_optimizer(group.model, config)
    losses, norms = [], []
    for step in range(options["train_steps"]):
        schedule_(optimizer, config, step, num_train_steps)
        optimizer.zero_grad(set_to_none=True)
        loss = total(terms_of(group, options, [options["prefixes"][step]], None))
        loss.backward()
        limit = options["clip_grad"] if options["clip_grad"] > 0 else float("inf")
        norms.append(nn.utils.clip_grad_norm_(group.model.parameters(), limit))
        optimizer.step()
        losses.append(loss.detach())
    torch.testing.assert_close(torch.stack(losses), io[f"{case}.total"], **CLOSE)
    torch.testing.assert_close(torch.stack(norms), io[f"{case}.grad_norm"], **CLOSE)
    parameters = group.parameters()
    found = torch.stack([parameter.detach().norm() for parameter in parameters.values()])
    torch.testing.assert_close(found, io[f"{case}.param_norms"], **AFTER_ADAM)
    for name in options["full"]:
        expected = io[f"{case}.param.{name}"]
        torch.testing.assert_close(parameters[name].detach(), expected.reshape(parameters[name].shape), **AFTER_ADAM)
