"""Is the latent space alive, and does the model listen to its actions? Measured on held-out windows."""

import torch
from jaxtyping import Float
from torch import Tensor

from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

COLLAPSED_STD = 0.01


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
    latents_SF = _encode(model.eval(), windows, device)[:, 0].flatten(1)
    std_F = latents_SF.std(dim=0)
    metrics = {
        "diagnostics/latent_std_mean": float(std_F.mean()),
        "diagnostics/latent_std_min": float(std_F.min()),
        "diagnostics/effective_rank": effective_rank(latents_SF),
    }
    if windows.sim_state is not None:
        targets = torch.from_numpy(windows.sim_state[:, 0])
        for name, value in zip(sim_state_names, linear_probe_r2(latents_SF, targets), strict=True):
            metrics[f"diagnostics/probe_r2/{name}"] = value
    return metrics


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
    latents = _encode(model.eval(), windows, device)
    actions = torch.from_numpy(windows.actions)
    order = torch.randperm(len(actions), generator=torch.Generator().manual_seed(seed))
    truth = latents[:, 1:]
    unrolled = _unroll(model, latents[:, :1], actions, device)
    shuffled = _unroll(model, latents[:, :1], actions[order], device)
    spread = float((latents - latents.mean(dim=(0, 1))).square().mean())
    errors = lambda predicted: (predicted - truth).square().mean(dim=(0, 2, 3)).tolist()  # noqa: E731
    columns = zip(errors(unrolled), errors(latents[:, :1].expand_as(truth)), errors(shuffled), strict=True)
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


def effective_rank(latents_SF: Float[Tensor, "S F"]) -> float:
    """Exponential of the entropy of the covariance's normalised eigenvalues: 1 (a line) to F (round).

    Reference: Roy and Vetterli 2007, The effective rank; as RankMe in Garrido et al. 2023, arXiv 2210.02885.
    """
    centred = (latents_SF - latents_SF.mean(dim=0)).double()
    eigenvalues = torch.linalg.eigvalsh(centred.T @ centred).clamp_min(0)
    shares = eigenvalues / eigenvalues.sum().clamp_min(1e-300)
    entropy = -(shares * shares.clamp_min(1e-300).log()).sum()
    return float(entropy.exp())


def linear_probe_r2(
    latents_SF: Float[Tensor, "S F"], targets_SG: Float[Tensor, "S G"], *, fit_fraction: float = 0.8
) -> list[float]:
    """How much of each target a ridge regression reads from the latents, on samples it was not fitted to.

    Args:
        latents_SF: `[S,F]` flattened latents.
        targets_SG: `[S,G]`, e.g. simulator states of the same frames.
        fit_fraction: Share of the samples, from the front, that the regression is fitted to.

    Returns:
        R^2 of each target; 1 is perfect, 0 no better than the mean, NaN where the target does not vary.
    """
    split = int(fit_fraction * len(latents_SF))
    x, y = latents_SF.double(), targets_SG.double()
    x_mean, y_mean = x[:split].mean(dim=0), y[:split].mean(dim=0)
    x, y = x - x_mean, y - y_mean
    gram = x[:split].T @ x[:split]
    ridge = 1e-6 * gram.diagonal().mean().clamp_min(1e-12)
    weights = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), x[:split].T @ y[:split])
    residual = (y[split:] - x[split:] @ weights).square().sum(dim=0)
    total = (y[split:] - y[split:].mean(dim=0)).square().sum(dim=0)
    return [float(1 - r / t) if t > 1e-12 else float("nan") for r, t in zip(residual, total, strict=True)]


def _encode(model: WorldModel, windows: WindowBatch, device: torch.device, size: int = 256) -> Tensor:
    pixels = torch.from_numpy(windows.pixels).movedim(-1, 2)
    return torch.cat([model.encode(part.to(device)).cpu() for part in pixels.split(size)])


def _unroll(model: WorldModel, context: Tensor, actions: Tensor, device: torch.device, size: int = 4096) -> Tensor:
    parts = zip(context.split(size), actions.split(size), strict=True)
    return torch.cat([model.unroll(c.to(device), a.to(device)).cpu() for c, a in parts])
