"""From configuration to heads: the one place that knows how each kind is built."""

from torch import nn

from jepawm.config.head import (
    DistanceHeadConfig,
    HeadConfig,
    ImageHeadConfig,
    InverseDynamicsHeadConfig,
    PairHeadConfig,
    StateHeadConfig,
    TransposedConvHeadConfig,
    VQVAEHeadConfig,
)
from jepawm.config.tagged import import_object
from jepawm.errors import ConfigError
from jepawm.heads.image import ImageHead
from jepawm.heads.pairs import DistanceHead, GoalInverseDynamicsHead, PairFeatures
from jepawm.heads.shape import HeadShape
from jepawm.heads.state import StateHead
from jepawm.heads.transposed_conv import TransposedConvDecoder
from jepawm.heads.vqvae import VQVAEDecoder


def build_head(config: HeadConfig, shape: HeadShape) -> nn.Module:
    """A fresh head of the kind that a configuration names.

    Args:
        config: Which head, and its settings.
        shape: Widths that it reads and gives.

    Raises:
        ConfigError: Settings that do not fit the shape.
    """
    head: nn.Module = import_object(config.implementation, "head.name")(config, shape)
    return head


def image_head(config: ImageHeadConfig, shape: HeadShape) -> ImageHead:
    """The transformer that draws frames of the model's own size."""
    return ImageHead(
        shape.latent_dim,
        image_size=shape.image_size,
        normalization=config.normalization,
        patch_size=config.patch_size,
        dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        grid=shape.grid,
        around_mean_frame=config.around_mean_frame,
    )


def vqvae_head(config: VQVAEHeadConfig, shape: HeadShape) -> VQVAEDecoder:
    """The convolutions that draw frames 16 times as large as the grid."""
    return VQVAEDecoder(
        shape.latent_dim,
        channels=config.channels,
        num_codes=config.num_codes,
        num_residual=config.num_residual,
        residual_channels=config.residual_channels,
        quantize=config.quantize,
        normalization=config.normalization,
        grid=shape.grid,
    )


def transposed_conv_head(config: TransposedConvHeadConfig, shape: HeadShape) -> TransposedConvDecoder:
    """The transposed convolutions that draw frames from single tokens."""
    if shape.num_patches != 1:
        raise ConfigError(
            f"head.name 'transposed_conv' draws from latents of a single token, the model's have {shape.num_patches} "
            "patches; use image or vqvae"
        )
    return TransposedConvDecoder(
        shape.latent_dim, image_size=shape.image_size, depth=config.depth, normalization=config.normalization
    )


def state_head(config: StateHeadConfig, shape: HeadShape) -> StateHead:
    """The transformer that reads the simulator's state."""
    if not shape.state_names:
        raise ConfigError("head.name 'state' needs episodes with the simulator's state, these have none")
    return StateHead(
        shape.latent_dim,
        len(shape.state_names),
        grid=shape.grid,
        dim=config.dim,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
    )


def distance_head(config: DistanceHeadConfig, shape: HeadShape) -> DistanceHead:
    """The learned temporal distance."""
    return DistanceHead(
        _features(config, shape),
        hidden_dim=config.hidden_dim,
        num_layers=config.num_layers,
        scale=float(config.horizon),
    )


def goal_inverse_dynamics_head(config: InverseDynamicsHeadConfig, shape: HeadShape) -> GoalInverseDynamicsHead:
    """The policy without search."""
    return GoalInverseDynamicsHead(
        _features(config, shape), shape.chunk_dim, hidden_dim=config.hidden_dim, num_layers=config.num_layers
    )


def _features(config: PairHeadConfig, shape: HeadShape) -> PairFeatures:
    return PairFeatures(
        shape.num_patches,
        shape.latent_dim,
        shape.proprio_dim if config.reads_proprio else 0,
        mean_of_patches=config.tokens == "mean",
    )
