"""Is the latent space alive, and does the model listen to its actions? Measured on held-out windows."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.data.statistics import HARDLY_MOVING_UNBOUNDED
from jepawm.nn.spectrum import effective_rank
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

COLLAPSED_STD = 0.01
FIT_FRACTION = 0.8
"""Share of the samples that a linear probe is fitted to."""


@torch.inference_mode()
def latent_diagnostics(
    model: WorldModel, windows: WindowBatch, sim_state_names: tuple[str, ...], device: torch.device
) -> dict[str, float]:
    """Collapse, measured.

    Args:
        model: In any mode; put into evaluation mode.
        windows: Held-out windows; their first frames are used.
        sim_state_names: Names of the simulator state's numbers; their linear probes are reported under these.
        device: Where the model lives.

    Returns:
        `diagnostics/latent_std_mean` and `_min` over latent dimensions, `diagnostics/effective_rank`, and
        `diagnostics/probe_r2/<name>` where the dataset has simulator states.
    """
    model.eval()
    parts = [
        model.encode(*_observations(windows, part, device, num_frames=1)).visual[:, 0].flatten(1).cpu()
        for part in _parts(len(windows))
    ]
    latents_SF = torch.cat(parts)
    metrics = collapse(latents_SF)
    if windows.sim_state is not None:
        targets = torch.from_numpy(windows.sim_state[:, 0])
        for name, value in zip(sim_state_names, linear_probe_r2(latents_SF, targets), strict=True):
            metrics[f"diagnostics/probe_r2/{name}"] = value
    return metrics


def collapse(latents_SF: Float[Tensor, "S F"]) -> dict[str, float]:
    """Are latents alive, over samples: `diagnostics/latent_std_mean` and `_min`, and `diagnostics/effective_rank`."""
    std_F = latents_SF.std(dim=0)
    return {
        "diagnostics/latent_std_mean": float(std_F.mean()),
        "diagnostics/latent_std_min": float(std_F.min()),
        "diagnostics/effective_rank": effective_rank(latents_SF),
    }


@torch.inference_mode()
def prediction_errors(
    model: WorldModel, windows: WindowBatch, device: torch.device, *, seed: int
) -> list[dict[str, float | int]]:
    """k-step latent prediction against two baselines.

    Args:
        model: A trained world model.
        windows: Held-out windows of `K + 1` frames.
        device: Where the model lives.
        seed: Of the shuffle.

    Returns:
        For k = 1 .. K: `model_steps`, and mean squared errors `model` (unrolled with the true actions), `persistence`
        (the latent stays as it is), `shuffled_actions` (unrolled with another window's actions), and
        `variance` (predicting the mean latent, the scale of the other three).
    """
    model.eval()
    actions = torch.from_numpy(windows.actions)
    order = torch.randperm(len(actions), generator=torch.Generator().manual_seed(seed))
    horizon = actions.shape[1]
    errors = torch.zeros(3, horizon, dtype=torch.float64)
    total = squares = torch.zeros((), dtype=torch.float64)
    # Sums over a few windows at a time: the latents of all of them would not fit where latents have many patches.
    for part in _parts(len(windows)):
        latents = model.encode(*_observations(windows, part, device))
        now, truth = latents[:, :1], latents.visual[:, 1:]
        guesses = [
            model.unroll(now, actions[part].to(device)).visual,
            now.visual.expand_as(truth),
            model.unroll(now, actions[order[part]].to(device)).visual,
        ]
        errors += torch.stack([_per_step(guess - truth) for guess in guesses])
        flat = latents.visual.flatten(0, 1).cpu()
        total = total + flat.sum(dim=0, dtype=torch.float64)
        squares = squares + flat.square().sum(dim=0, dtype=torch.float64)
    count = len(windows) * (horizon + 1)
    spread = float((squares / count - (total / count).square()).mean())
    columns = zip(*(errors / len(windows)).tolist(), strict=True)
    return [
        {
            "model_steps": step,
            "model": of_model,
            "persistence": of_persistence,
            "shuffled_actions": of_shuffled,
            "variance": spread,
        }
        for step, (of_model, of_persistence, of_shuffled) in enumerate(columns, start=1)
    ]


def validation(model: WorldModel, windows: WindowBatch, device: torch.device, *, seed: int) -> dict[str, float]:
    """`prediction_errors` as metrics, each as a share of persistence: below 1, the model knows more than "no change".

    Args:
        model: A world model.
        windows: Held-out windows of `K + 1` frames.
        device: Where the model lives.
        seed: Of the shuffle of actions.

    Returns:
        For k = 1 .. K `validation/error_<k>` (with the true actions) and `validation/error_shuffled_actions_<k>`. Where
        the two are alike, the model does not listen to its actions. A k after which no latent changed has no share, so
        neither metric is there.
    """
    metrics = {}
    for row in prediction_errors(model, windows, device, seed=seed):
        scale = row["persistence"]
        if scale == 0:
            continue
        metrics[f"validation/error_{row['model_steps']}"] = row["model"] / scale
        metrics[f"validation/error_shuffled_actions_{row['model_steps']}"] = row["shuffled_actions"] / scale
    return metrics


def linear_probe_r2(
    latents_SF: Float[Tensor, "S F"], targets_SG: Float[Tensor, "S G"], *, num_fitted: int | None = None
) -> list[float]:
    """How much of each target a ridge regression reads from the latents, on samples it was not fitted to.

    Args:
        latents_SF: `[S,F]` flattened latents.
        targets_SG: `[S,G]`, e.g. simulator states of the same frames.
        num_fitted: Samples from the front that the regression is fitted to; None: `FIT_FRACTION` of them.

    Returns:
        R^2 of each target; 1 is perfect, 0 no better than the mean, NaN where the target never changes, or hardly.
    """
    split = int(FIT_FRACTION * len(latents_SF)) if num_fitted is None else num_fitted
    x, y = latents_SF.double(), targets_SG.double()
    x_mean, y_mean = x[:split].mean(dim=0), y[:split].mean(dim=0)
    x, y = x - x_mean, y - y_mean
    seen = x[:split]
    ridge = 1e-6 * (seen.square().sum() / seen.shape[1]).clamp_min(1e-12)
    if seen.shape[1] <= split:
        gram = seen.T @ seen
        weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), seen.T @ y[:split])
    else:
        # The same regression through the samples, where there are fewer of them than features.
        gram = seen @ seen.T
        weights = seen.T @ torch.linalg.solve(gram + ridge * torch.eye(split, dtype=gram.dtype), y[:split])
    residual = (y[split:] - x[split:] @ weights).square().sum(dim=0)
    total = (y[split:] - y[split:].mean(dim=0)).square().sum(dim=0)
    # The noise of a simulator at rest is no target; an error over it would be a number without meaning.
    least = HARDLY_MOVING_UNBOUNDED**2 * (len(y) - split)
    return [float(1 - r / t) if t > least else float("nan") for r, t in zip(residual, total, strict=True)]


def _parts(count: int, size: int = 128) -> list[slice]:
    return [slice(at, min(at + size, count)) for at in range(0, count, size)]


def _observations(
    windows: WindowBatch, part: slice, device: torch.device, num_frames: int | None = None
) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(windows.inputs[part, :num_frames]).to(device)
    return pixels, torch.from_numpy(windows.proprio[part, :num_frames]).to(device)


def _per_step(difference_BKPD: Tensor) -> Tensor:
    """Mean squares over patches and width, summed over windows: `[K]`."""
    # Not every device knows float64.
    return difference_BKPD.square().mean(dim=(2, 3)).cpu().double().sum(dim=0)
