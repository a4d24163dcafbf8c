"""A pretrained encoder that is never trained, and so never part of a checkpoint."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from jepawm.config.encoder import EncoderConfig, without_weights
from jepawm.encoders.base import Encoder
from jepawm.errors import CheckpointError

_FRAMES_PER_FORWARD = 64


class FrozenEncoder(Encoder):
    """Knows its shape at once, and reads its weights when frames are first encoded.

    A world model on stored features, or one that is only converted, never needs them. The weights are no part of this
    module's state: a checkpoint names their source and their fingerprint instead of holding a copy.

    Args:
        config: Of the encoder, with `weights`.
        image_size: Side of the square frames, pixels.
        build: Makes the encoder from a configuration and an image size.

    Attributes:
        expected_sha256: Fingerprint that the weights must have, or None.
    """

    _anchor: Tensor

    def __init__(self, config: EncoderConfig, image_size: int, build: Callable[[EncoderConfig, int], Encoder]) -> None:
        with torch.device("meta"):
            shape = build(without_weights(config), image_size)
        super().__init__(grid=shape.grid, latent_dim=shape.latent_dim, frames_per_latent=shape.frames_per_latent)
        self.config = config
        self.image_size = image_size
        self.expected_sha256: str | None = None
        self._build = build
        # In a list, and so not registered: neither parameters() nor state_dict() sees it.
        self._loaded: list[Encoder] = []
        self._found_sha256: str | None = None
        self.register_buffer("_anchor", torch.zeros(()), persistent=False)

    def backbone(self) -> Encoder:
        """The encoder itself, with its weights, on this module's device.

        Raises:
            CheckpointError: Weights that are missing, damaged, of another model, or not those the checkpoint names.
        """
        if not self._loaded:
            # Tensors made under inference mode could not be used in a later training step.
            with torch.inference_mode(False), torch.no_grad():
                made = self._build(self.config, self.image_size).requires_grad_(False).eval()
                found = fingerprint(made)
                if self.expected_sha256 not in (None, found):
                    source = self.config.weights_source
                    raise CheckpointError(
                        f"model.encoder.weights '{source}' are not those this model was trained on: "
                        f"their SHA-256 is {found[:12]}..., expected {str(self.expected_sha256)[:12]}..."
                    )
                self._found_sha256 = found
                self._loaded.append(made.to(self._anchor.device))
        return self._loaded[0]

    def sha256(self) -> str | None:
        """Fingerprint of the weights; None while neither read nor expected."""
        return self._found_sha256 or self.expected_sha256

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        result = super()._apply(fn, recurse)
        for made in self._loaded:
            made._apply(fn, recurse)
        return result

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B L P D"]:
        """See `FrameEncoder.forward`; a few windows at a time, for a large backbone needs room."""
        backbone = self.backbone()
        windows = max(1, _FRAMES_PER_FORWARD // pixels_BTCYX.shape[1])
        with torch.no_grad():
            return torch.cat([backbone(part) for part in pixels_BTCYX.split(windows)])


def encoder_sha256(encoder: Encoder) -> str:
    """Fingerprint of an encoder's weights, read first where they are read late.

    Raises:
        CheckpointError: See `FrozenEncoder.backbone`.
    """
    if not isinstance(encoder, FrozenEncoder):
        return fingerprint(encoder)
    encoder.backbone()
    found = encoder.sha256()
    assert found is not None, "backbone() reads the weights"
    return found


def fingerprint(module: torch.nn.Module) -> str:
    """SHA-256 of a module's state: names and values."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
