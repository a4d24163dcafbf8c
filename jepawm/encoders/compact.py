"""A small latent on a frozen encoder: the second of two stages, whose features are encoded once and stored."""

import os

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from jepawm.config.compact import CompactEncoderConfig
from jepawm.config.encoder import EncoderConfig, shaping_settings
from jepawm.config.yaml_io import from_dict, read_yaml
from jepawm.encoders import build_encoder
from jepawm.encoders.base import Encoder
from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn import weights
from jepawm.nn.mlp import mlp
from jepawm.nn.precision import at_least_float32

_ENCODER_PREFIX = "encoder."


class CompactEncoder(Encoder):
    """`phi((features - mean) / deviation)`, with the features of a frozen base; phi alone trains.

    Many-dimensional latents with decorrelated dimensions put every two frames about equally far apart. A planner that
    measures distances needs few dimensions; a second joint embedding of the first one's latents gives them.

    Args:
        config: The base, and the widths of phi.
        image_size: Side of the square input frames, pixels.

    Attributes:
        base: The frozen encoder.

    Raises:
        CheckpointError: `config.weights` holds no encoder like the base.
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, config: CompactEncoderConfig, image_size: int) -> None:
        super().__init__(grid=(1, 1), latent_dim=config.latent_dim)
        if config.base.frames_per_latent != 1:
            raise ConfigError("model.encoder.base must give one latent per frame; set its tokenization to 'frame'")
        self.base = build_encoder(config.base, image_size)
        if config.weights is not None:
            _load_base(self.base, config.base, config.weights)
        self.base.requires_grad_(False).eval()
        width = self.base.num_patches * self.base.latent_dim
        self.phi: nn.Sequential = mlp(width, config.hidden_dim, config.latent_dim, config.num_layers)
        self.register_buffer("feature_mean", torch.zeros(width))
        self.register_buffer("feature_std", torch.ones(width))

    @property
    def storable(self) -> Encoder:
        """The base."""
        return self.base

    def set_feature_statistics(self, mean_F: Tensor, std_F: Tensor) -> None:
        """Fixes what features are centred and scaled by: `[F]` each, of flattened features, deviations above 0."""
        self.feature_mean.copy_(mean_F)
        self.feature_std.copy_(std_F)

    def train(self, mode: bool = True) -> "CompactEncoder":
        """The base stays in evaluation mode."""
        super().train(mode)
        self.base.eval()
        return self

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B T 1 D"]:
        """See `FrameEncoder.forward`; no graph is recorded through the base."""
        with torch.no_grad():
            features = self.base(pixels_BTCYX)
        return self.from_features(features)

    def from_features(self, features_BTPF: Float[Tensor, "B T P F"]) -> Float[Tensor, "B T 1 D"]:
        """Latents of the base's features; see `Encoder.from_features`."""
        flat_BTF = (at_least_float32(features_BTPF.flatten(2)) - self.feature_mean) / self.feature_std
        return at_least_float32(self.phi(flat_BTF)).unsqueeze(2)


def _load_base(base: Encoder, config: EncoderConfig, source: str) -> None:
    """Reads the encoder of a model folder, or of the model of a run, strictly."""
    folder = weights.model_folder(source)
    trained = read_yaml(os.path.join(folder, "config.yaml")).get("model", {}).get("encoder", {})
    found, wanted = (shaping_settings(each) for each in (from_dict(EncoderConfig, trained, folder), config))
    if found != wanted:
        differing = [key for key in wanted | found if found.get(key) != wanted.get(key)]
        raise CheckpointError(
            f"the encoder in {folder} is not model.encoder.base: "
            + "; ".join(f"{key} is {found.get(key)!r} there, {wanted.get(key)!r} here" for key in differing)
        )
    path = os.path.join(folder, "model.safetensors")
    tensors = weights.read_tensors(path)
    own = {
        key.removeprefix(_ENCODER_PREFIX): value for key, value in tensors.items() if key.startswith(_ENCODER_PREFIX)
    }
    if not own:
        raise CheckpointError(f"{path} holds no trained encoder, expected tensors named '{_ENCODER_PREFIX}...'")
    weights.load_strict(base, own, path)
