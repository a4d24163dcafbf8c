"""How predictions are supervised: what the predictor is given, and what its predictions are compared with.

Latents that are `given` to the predictor and `targets` to compare with are the same latents, except that adversarial
training perturbs what is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.config.loss import DINOWMLossConfig, LossConfig, RolloutLossConfig, UnrollLossConfig
from jepawm.latent import Latent, concatenate
from jepawm.losses import latent_distance
from jepawm.world_model import WorldModel

Terms = dict[str, Tensor]


@dataclass(frozen=True)
class Draws:
    """What is random in one train step's supervision.

    Attributes:
        prefixes: Frames that sequential unrolls begin with, besides those before them.
        true_frames: For each step k = 2 .. K of a parallel unroll `[B,T-k]`, whether an input is the true frame; None
            where none is.
    """

    prefixes: Sequence[int] = (0,)
    true_frames: Sequence[Tensor] | None = None


def first_predictions(model: WorldModel, config: LossConfig, given: Latent, actions_BKA: Tensor) -> Latent:
    """Predictions `[B,T-1]` of the frames after the first: by an unroll from it, or each from the true ones before.

    Args:
        model: The world model.
        config: How predictions are supervised.
        given: Latents `[B,T]` that the predictor sees.
        actions_BKA: `[B,T-1,A]` raw chunks between the frames.
    """
    if isinstance(config, UnrollLossConfig):
        return model.unroll(given[:, :1], actions_BKA)
    return model.predict(given[:, :-1], actions_BKA)


def prediction_terms(
    model: WorldModel,
    config: LossConfig,
    predicted: Latent,
    latents: tuple[Latent, Latent],
    actions_BKA: Float[Tensor, "B K A"],
    draws: Draws,
) -> Terms:
    """The terms of the loss that compare predictions with true latents, before their weights.

    Args:
        model: The world model.
        config: How predictions are supervised.
        predicted: What `first_predictions` returned.
        latents: Latents `[B,T]` that the predictor sees, and those that it should predict.
        actions_BKA: `[B,T-1,A]` raw chunks between the frames.
        draws: What is random.

    Returns:
        `prediction` and, where proprio is predicted, `proprio_prediction`; for unrolls of several steps also
        `prediction_after_<k>`, which are no terms of their own.
    """
    targets = latents[1].map(Tensor.detach) if config.detaches_targets else latents[1]
    learnt = bool(config.proprio_prediction) and not model.integrates_pose
    if isinstance(config, DINOWMLossConfig):
        return {"prediction": _joint(config, predicted, targets[:, 1:], learnt)}
    compare = _Comparison(config, learnt)
    if isinstance(config, RolloutLossConfig):
        return _rollout_terms(model, config, compare, predicted, latents, actions_BKA, draws)
    return compare(predicted, targets[:, 1:])


@dataclass(frozen=True)
class _Comparison:
    """Predicted and true latents to terms: `prediction`, and `proprio_prediction` where proprio is learnt."""

    config: LossConfig
    learnt: bool

    def __call__(self, predicted: Latent, targets: Latent) -> Terms:
        terms = {"prediction": _distance(predicted.visual, targets.visual, self.config)}
        if self.learnt and predicted.proprio is not None and targets.proprio is not None:
            terms["proprio_prediction"] = _distance(predicted.proprio, targets.proprio, self.config)
        return terms


def _joint(config: LossConfig, predicted: Latent, targets: Latent, learnt: bool) -> Tensor:
    """One comparison of the features of visual tokens and proprio side by side, as DINO-WM compares them.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983, equation 2.
    """
    if not (learnt and predicted.proprio is not None and targets.proprio is not None):
        return _distance(predicted.visual, targets.visual, config)
    features = torch.cat([predicted.visual, predicted.proprio], dim=-1)
    return _distance(features, torch.cat([targets.visual, targets.proprio], dim=-1), config)


def _distance(predicted: Tensor, target: Tensor, config: LossConfig) -> Tensor:
    # Means over a batch need float32, whatever the layers compute in.
    with torch.autocast(target.device.type, enabled=False):
        return latent_distance(predicted, target, config.distance)


# -- teacher forcing and unrolls of a few steps ----------------------------------------------------------------------


def _rollout_terms(
    model: WorldModel,
    config: RolloutLossConfig,
    compare: _Comparison,
    forced: Latent,
    latents: tuple[Latent, Latent],
    actions_BKA: Tensor,
    draws: Draws,
) -> Terms:
    """`L_1` under teacher forcing, and the later steps of unrolls, weighed.

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497; the weights are those of its published code.
    """
    given, targets = latents
    K, all_targets = config.rollout_steps, targets.map(Tensor.detach)
    weights = {
        "published": (1 / (K + 1), 1 / K),
        "normalised": (1 / K, 1 / K),
        "vjepa2_ac": (1.0, 1 / K),
    }[config.weighting]
    terms: Terms = {}
    _add(terms, weights[0], compare(forced, targets[:, 1:]))
    if K == 1:
        return terms
    later: list[Terms] = []
    if config.sequential:
        for prefix in draws.prefixes:
            steps = _sequential(model, config, compare, forced, given, all_targets, actions_BKA, prefix)
            first = 1 if config.weighting == "vjepa2_ac" else 2
            for k, step in enumerate(steps, start=1):
                share = 1 / len(draws.prefixes)
                if k >= first:
                    _add(terms, weights[1] * share, step)
                later.append({f"{name}_after_{k}": value * share for name, value in step.items() if k > 1})
    if config.parallel:
        for k, step in enumerate(_parallel(model, config, compare, forced, latents, actions_BKA, draws), start=2):
            _add(terms, weights[1], step)
            later.append({f"{name}_parallel_after_{k}": value for name, value in step.items()})
    for more in later:
        _add(terms, 1.0, {name: value.detach() for name, value in more.items()})
    return terms


def _sequential(
    model: WorldModel,
    config: RolloutLossConfig,
    compare: _Comparison,
    forced: Latent,
    given: Latent,
    targets: Latent,
    actions_BKA: Tensor,
    prefix: int,
) -> list[Terms]:
    """`L_1 .. L_K` of an unroll from the frames 0 .. prefix; each compares the newest frame alone."""
    true_proprio = config.rollout_proprio == "true"

    def as_input(latent: Latent) -> Latent:
        return latent.map(Tensor.detach) if config.backpropagation == "truncated" else latent

    def frame(latents: Latent, at: int) -> Latent:
        return latents[:, at : at + 1]

    newest = frame(forced, prefix)
    history = [given[:, : prefix + 1]]
    steps = []
    for k in range(1, config.rollout_steps + 1):
        at = prefix + k
        if k > 1:
            oldest = max(0, at - config.rollout_window)
            window = concatenate([as_input(part) for part in history], axis=1)[:, oldest:]
            newest = model.predict(window, actions_BKA[:, oldest:at], last_only=True)
        if true_proprio:
            newest = Latent(newest.visual, frame(given, at).proprio)
        steps.append(compare(newest, frame(targets, at)))
        history.append(newest)
    return steps


def _parallel(
    model: WorldModel,
    config: RolloutLossConfig,
    compare: _Comparison,
    forced: Latent,
    latents: tuple[Latent, Latent],
    actions_BKA: Tensor,
    draws: Draws,
) -> list[Terms]:
    """`L_2 .. L_K` of unrolls from every position at once: one pass's predictions are the next one's input."""
    given, targets = latents
    predicted, T = forced, given.lead[1]
    steps = []
    for k in range(2, config.rollout_steps + 1):
        # Input i is a prediction of frame i + k - 1.
        count, shift = T - k, k - 1
        inputs = predicted[:, :count]
        if draws.true_frames is not None:
            first = 0 if config.parallel_actions == "published" else shift
            inputs = _mixed(inputs, given[:, first : first + count], draws.true_frames[k - 2])
        if config.backpropagation == "truncated":
            inputs = inputs.map(Tensor.detach)
        first = 0 if config.parallel_actions == "published" else shift
        predicted = model.predict(inputs, actions_BKA[:, first : first + count])
        steps.append(compare(predicted, targets[:, k:].map(Tensor.detach)))
    return steps


def _mixed(inputs: Latent, true: Latent, chosen_BT: Tensor) -> Latent:
    """The true frame where it is chosen, else the input."""

    def mix(part: Tensor, truth: Tensor) -> Tensor:
        return torch.where(chosen_BT[:, :, None, None], truth, part)

    if inputs.proprio is None or true.proprio is None:
        return Latent(mix(inputs.visual, true.visual))
    return Latent(mix(inputs.visual, true.visual), mix(inputs.proprio, true.proprio))


def _add(terms: Terms, weight: float, more: Terms) -> None:
    for name, value in more.items():
        terms[name] = terms[name] + weight * value if name in terms else weight * value
