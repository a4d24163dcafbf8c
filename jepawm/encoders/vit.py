"""A plain vision transformer, trained from pixels."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepawm.config.encoder import ViTEncoderConfig
from jepawm.encoders.base import FrameEncoder, Widths, patch_grid, widths_of
from jepawm.errors import ConfigError
from jepawm.nn.transformer import Block
from jepawm.nn.weights import load_strict, locate, read_tensors
from jepawm.nn.wrapped import network_tensors

SIZES = {
    "tiny": Widths(192, 12, 3),
    "small": Widths(384, 12, 6),
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
}
_PATCH_SIZE = 14
_EPS = 1e-12
_INIT_STD = 0.02


class ViTEncoder(FrameEncoder):
    """Patches, a learned position table, pre-norm blocks and a final normalisation; of tiny size it is LeWM's encoder.

    Args:
        config: Size or widths, patch, and which tokens make the latent. A class token exists only where it is the
            latent.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: Sides or widths that do not divide.
        CheckpointError: A weight file that is missing, damaged, or of another model.

    Reference: Dosovitskiy et al. 2021, ViT, arXiv 2010.11929.
    """

    def __init__(self, config: ViTEncoderConfig, image_size: int) -> None:
        widths = widths_of(config, SIZES)
        side, patch_size = config.resize_to or image_size, config.patch_size or _PATCH_SIZE
        patches = patch_grid(side, side, patch_size)
        is_class = config.feature == "class"
        super().__init__(config, image_size, grid=(1, 1) if is_class else patches, latent_dim=widths.dim)
        self.patches = patches
        self.patch_size = patch_size
        self.patch_embed = nn.Conv2d(3, widths.dim, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, widths.dim)) if is_class else None
        num_tokens = patches[0] * patches[1] + is_class
        self.positions = nn.Parameter(torch.zeros(1, num_tokens, widths.dim))
        self.blocks = nn.ModuleList(
            Block(widths.dim, widths.num_heads, widths.hidden_dim, eps=_EPS) for _ in range(widths.depth)
        )
        self.norm = nn.LayerNorm(widths.dim, eps=_EPS)
        self._initialise()
        if config.weights is not None:
            self._load(config.weights)
        # The blocks behind the chosen layer have been checked against the file, and are not computed.
        self.blocks = self.blocks[: config.layer]

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=_INIT_STD)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.trunc_normal_(self.positions, std=_INIT_STD)
        if self.class_token is not None:
            nn.init.trunc_normal_(self.class_token, std=_INIT_STD)

    def _load(self, source: str) -> None:
        if source == "timm":
            raise ConfigError(
                "model.encoder.weights 'timm' is not for model.encoder.name 'vit', which is trained from scratch; give "
                "a file of this encoder's own tensors, or take dinov2 or dinov3"
            )
        path = locate(source)
        load_strict(self, network_tensors(read_tensors(path), path), path, cause="not this size of encoder 'vit'")

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        patches = patch_grid(images_NCYX.shape[-2], images_NCYX.shape[-1], self.patch_size)
        if patches != self.patches:
            raise ConfigError(f"the encoder's position table is for {self.patches} patches, found {patches}")
        x_NLD = self.patch_embed(images_NCYX).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            x_NLD = torch.cat([self.class_token.expand(len(x_NLD), -1, -1).to(x_NLD.dtype), x_NLD], dim=1)
        x_NLD = x_NLD + self.positions
        for block in self.blocks:
            x_NLD = block(x_NLD)
        return self.norm(x_NLD if self.class_token is None else x_NLD[:, :1])
