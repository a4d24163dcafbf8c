"""What a model imagines, drawn by its heads and compared with what was recorded."""

from collections.abc import Callable

import torch
from torch import Tensor

from jepawm.checkpoints.head_folder import HeadSpec, heads_of_kind, load_head
from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config.head import ImageHeadConfig
from jepawm.errors import CheckpointError, MissingDependencyError
from jepawm.evaluation.latent_pictures import DRAWING_KINDS
from jepawm.training.image_metrics import EXTRA, LPIPS, can_measure, image_metrics
from jepawm.types import WindowBatch
from jepawm.world_model import WorldModel

MOST_WINDOWS = 64
_WINDOWS_AT_ONCE = 8


@torch.no_grad()
def drawn_predictions(
    model: WorldModel, spec: ModelSpec, windows: WindowBatch, *, say: Callable[[str], None]
) -> dict[str, list[dict[str, float]]]:
    """Image metrics of predicted frames, for each head beside a model that draws.

    Args:
        model: The world model, in evaluation mode.
        spec: What it was read with; `spec.folder` holds its heads.
        windows: Held-out windows of `K + 1` frames; the first `MOST_WINDOWS` are used.
        say: Told what is left out, and why.

    Returns:
        By the name of the head `K + 1` rows: `model_steps` predicted (0: the encoded frame), and the metrics of
        `image_metrics`. Empty without such a head.

    Raises:
        CheckpointError: A head that is damaged, or that was trained on other weights.
    """
    if spec.folder is None:
        return {}
    found = {}
    for name in heads_of_kind(spec.folder, *DRAWING_KINDS):
        loaded, head_spec = load_head(spec.folder, name, model.action_mean.device)
        decode: Callable[[Tensor], Tensor] = loaded.decode  # type: ignore[assignment]
        if not can_measure():
            say(f"   head {name}: PSNR, SSIM and LPIPS are left out: pip install 'jepawm[{EXTRA}]'")
        lpips = _lpips(name, head_spec, model.action_mean.device, say)
        drawn, true = [], []
        for at in range(0, min(len(windows), MOST_WINDOWS), _WINDOWS_AT_ONCE):
            part = slice(at, min(at + _WINDOWS_AT_ONCE, MOST_WINDOWS))
            latents_BTPD, pixels_BTCYX = _encoded_and_predicted(model, windows, part)
            drawn.append(decode(latents_BTPD))
            true.append(pixels_BTCYX)
        drawn_BTCYX, true_BTCYX = torch.cat(drawn), torch.cat(true)
        found[name] = [
            {"model_steps": float(step), **image_metrics(drawn_BTCYX[:, step], true_BTCYX[:, step], lpips)}
            for step in range(drawn_BTCYX.shape[1])
        ]
    return found


def _encoded_and_predicted(model: WorldModel, windows: WindowBatch, part: slice) -> tuple[Tensor, Tensor]:
    """Latents `[B,K+1,P,D]`, the first encoded and the others predicted from it; and the true frames."""
    device = model.action_mean.device
    pixels = torch.from_numpy(windows.pixels[part]).to(device).movedim(-1, 2)
    proprio = torch.from_numpy(windows.proprio[part]).to(device)
    now = model.encode(pixels[:, :1], proprio[:, :1])
    predicted = model.unroll(now, torch.from_numpy(windows.actions[part]).to(device))
    return torch.cat([now.visual, predicted.visual], dim=1), pixels


def _lpips(name: str, spec: HeadSpec, device: torch.device, say: Callable[[str], None]) -> LPIPS | None:
    if not isinstance(spec.config, ImageHeadConfig) or spec.config.lpips_weights is None or not can_measure():
        return None
    try:
        return LPIPS(spec.config.lpips_weights, spec.config.lpips_network).to(device)
    except (CheckpointError, MissingDependencyError) as error:
        say(f"   head {name}: LPIPS is left out: {error}")
        return None
