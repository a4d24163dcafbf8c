"""DINOv2 and DINOv3, through timm's transformer classes; official checkpoints and timm's load alike."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config.encoder import DINOv2EncoderConfig, DINOv3EncoderConfig
from jepawm.encoders.base import FrameEncoder, Widths, patch_grid, widths_of
from jepawm.errors import CheckpointError, ConfigError, require
from jepawm.nn.weights import load_strict, locate, read_tensors
from jepawm.nn.wrapped import network_tensors

DINOV2_SIZES = {
    "small": Widths(384, 12, 6),
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
    "giant": Widths(1536, 40, 24, 8 / 3, gated=True),
}
DINOV3_SIZES = {
    "small": Widths(384, 12, 6),
    "small_plus": Widths(384, 12, 6, gated=True),
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
    "huge_plus": Widths(1280, 32, 20, gated=True),
}
# Held by official files for their training alone.
_TRAINING_ONLY = {"mask_token"}
_LAYER_SCALE = 1e-5

_V2_PATCH_SIZE, _V2_POSITION_GRID, _V2_EPS = 14, 37, 1e-6
# The position table without registers is resized by a factor computed for this much more than the grid.
_V2_OVERSIZE = 0.1

_V3_PATCH_SIZE, _V3_REGISTERS, _V3_EPS, _V3_ROTARY_BASE = 16, 4, 1e-5, 100.0
# Official files hold the rotary periods rounded to bfloat16.
_V3_PERIOD_TOLERANCE = 2**-8


class _DINOEncoder(FrameEncoder):
    """What the two generations share: patches, prefix tokens, and which tokens are handed on."""

    backbone: Any

    def __init__(
        self, config: DINOv2EncoderConfig | DINOv3EncoderConfig, image_size: int, *, widths: Widths, patch_size: int
    ) -> None:
        side = config.resize_to or image_size
        patches = patch_grid(side, side, patch_size)
        is_class = config.feature == "class"
        super().__init__(config, image_size, grid=(1, 1) if is_class else patches, latent_dim=widths.dim)
        self.feature = config.feature
        self.patch_size = patch_size

    def _keep(self, layer: int | None) -> None:
        """Leaves out the blocks behind a layer, once they have been checked against the file."""
        self.backbone.blocks = self.backbone.blocks[:layer]

    def _select(self, x_NLD: Tensor, num_prefix: int) -> Tensor:
        return self.backbone.norm(x_NLD[:, :1] if self.feature == "class" else x_NLD[:, num_prefix:])


class DINOv2Encoder(_DINOEncoder):
    """DINOv2: normalised patch tokens, or the class token.

    Args:
        config: Size or widths, registers, position table, and which tokens make the latent.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: Sides or widths that do not divide, or another number of registers than 0 and 4.
        CheckpointError: A weight file that is missing, damaged, or of another model.

    Reference: Oquab et al. 2023, DINOv2, arXiv 2304.07193; Darcet et al. 2023, registers, arXiv 2309.16588.
    """

    def __init__(self, config: DINOv2EncoderConfig, image_size: int) -> None:
        widths = widths_of(config, DINOV2_SIZES)
        patch_size = config.patch_size or _V2_PATCH_SIZE
        super().__init__(config, image_size, widths=widths, patch_size=patch_size)
        require("timm", "vision")
        from timm.layers import Mlp, SwiGLUPacked
        from timm.models.vision_transformer import VisionTransformer

        self.position_grid = config.position_grid or _V2_POSITION_GRID
        self.num_registers = config.num_registers
        feed_forward: Any = SwiGLUPacked if widths.gated else Mlp
        # timm counts both halves of the packed SwiGLU, and rounds down.
        inside = widths.hidden_dim * (2 if widths.gated else 1)
        self.backbone = VisionTransformer(
            img_size=self.position_grid * patch_size,
            patch_size=patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=widths.dim,
            depth=widths.depth,
            num_heads=widths.num_heads,
            mlp_ratio=(inside + 0.5) / widths.dim,
            init_values=_LAYER_SCALE,
            reg_tokens=self.num_registers,
            no_embed_class=self.num_registers > 0,
            norm_layer=partial(nn.LayerNorm, eps=_V2_EPS),
            act_layer=nn.SiLU if widths.gated else nn.GELU,
            mlp_layer=feed_forward,
        )
        if config.weights is not None:
            self._load(config)
        self._keep(config.layer)

    def _load(self, config: DINOv2EncoderConfig) -> None:
        size = config.size or "small"
        registers = "_reg4" if self.num_registers else ""
        on_hub = f"hf://timm/vit_{size}_patch14{registers}_dinov2.lvd142m/model.safetensors"
        official = f"dinov2_vit{size[0]}14{registers.removesuffix('4')}"
        get = f"get {official} of torch.hub's facebookresearch/dinov2, or {on_hub}"
        path = locate(on_hub if config.weights == "timm" else str(config.weights), hint=get)
        tensors = timm_names_of_dinov2(network_tensors(read_tensors(path), path), path)
        cause = f"expected DINOv2, size {size}, {self.num_registers} registers"
        load_strict(self.backbone, tensors, path, ignored=_TRAINING_ONLY, cause=cause)

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        rows, columns = patch_grid(images_NCYX.shape[-2], images_NCYX.shape[-1], self.patch_size)
        backbone, N = self.backbone, len(images_NCYX)
        x_NLD = backbone.patch_embed.proj(images_NCYX).flatten(2).transpose(1, 2)
        x_NLD = x_NLD + self._positions(rows, columns)
        prefix = backbone.cls_token
        if self.num_registers:
            prefix = torch.cat([prefix, backbone.reg_token], dim=1)
        else:
            prefix = prefix + backbone.pos_embed[:, :1]
        x_NLD = torch.cat([prefix.expand(N, -1, -1), x_NLD], dim=1)
        return self._select(backbone.blocks(x_NLD), prefix.shape[1])

    def _positions(self, rows: int, columns: int) -> Tensor:
        """The position table `[1,rows*columns,D]`, resized as the official code does."""
        side = self.position_grid
        table_1PD = self.backbone.pos_embed[:, -side * side :]
        if rows == columns == side:
            return table_1PD
        table_1DYX = table_1PD.float().transpose(1, 2).unflatten(2, (side, side))
        if self.num_registers:
            resized = F.interpolate(table_1DYX, size=(rows, columns), mode="bicubic", antialias=True)
        else:
            factor = ((rows + _V2_OVERSIZE) / side, (columns + _V2_OVERSIZE) / side)
            resized = F.interpolate(table_1DYX, scale_factor=factor, mode="bicubic")
        return resized.flatten(2).transpose(1, 2).to(table_1PD.dtype)


class DINOv3Encoder(_DINOEncoder):
    """DINOv3: normalised patch tokens, or the class token.

    Args:
        config: Size or widths, and which tokens make the latent.
        image_size: Side of the square input frames, pixels.

    Raises:
        ConfigError: Sides or widths that do not divide.
        CheckpointError: A weight file that is missing, damaged, or of another model.

    Reference: Simeoni et al. 2025, DINOv3, arXiv 2508.10104.
    """

    periods: Tensor

    def __init__(self, config: DINOv3EncoderConfig, image_size: int) -> None:
        widths = widths_of(config, DINOV3_SIZES)
        head_dim = widths.dim // widths.num_heads
        if head_dim % 4:
            raise ConfigError(
                f"dinov3 needs heads whose width is a multiple of 4, found {head_dim}: change "
                "model.encoder.latent_dim or model.encoder.num_heads"
            )
        super().__init__(config, image_size, widths=widths, patch_size=config.patch_size or _V3_PATCH_SIZE)
        require("timm", "vision")
        from timm.models.eva import Eva

        self.backbone = Eva(
            img_size=self.preprocess.side,
            patch_size=self.patch_size,
            num_classes=0,
            global_pool="",
            embed_dim=widths.dim,
            depth=widths.depth,
            num_heads=widths.num_heads,
            mlp_ratio=(widths.hidden_dim + 0.5) / widths.dim,
            swiglu_mlp=widths.gated,
            # Any alignment makes timm keep the gate's weights apart, as its DINOv3 files do.
            swiglu_align_to=8 if widths.gated else 0,
            init_values=_LAYER_SCALE,
            num_reg_tokens=_V3_REGISTERS,
            use_abs_pos_emb=False,
            rope_rotate_half=True,
            use_fc_norm=False,
            norm_layer=partial(nn.LayerNorm, eps=_V3_EPS),
        )
        # Kept with the weights: the official rounding of the periods is part of what the network learnt with.
        periods = _V3_ROTARY_BASE ** (torch.arange(head_dim // 4) / (head_dim // 4))
        self.register_buffer("periods", periods)
        if config.weights is not None:
            self._load(config)
        self._keep(config.layer)

    def _load(self, config: DINOv3EncoderConfig) -> None:
        size = config.size or "small"
        on_hub = f"hf://timm/vit_{size}_patch16_dinov3_qkvb.lvd1689m/model.safetensors"
        get = f"ask for the file on Meta's DINOv3 page and accept its licence (facebookresearch/dinov3), or {on_hub}"
        path = locate(on_hub if config.weights == "timm" else str(config.weights), hint=get)
        tensors = timm_names_of_dinov3(network_tensors(read_tensors(path), path), path)
        periods = tensors.pop("periods", self.periods)
        if periods.shape != self.periods.shape or not torch.allclose(
            periods.float(), self.periods, rtol=_V3_PERIOD_TOLERANCE, atol=0
        ):
            raise CheckpointError(
                f"{path} does not fit the model: rope_embed.periods are {periods.tolist()}, expected "
                f"{self.periods.tolist()}"
            )
        load_strict(self.backbone, tensors, path, ignored=_TRAINING_ONLY, cause=f"expected DINOv3, size {size}")
        self.periods.copy_(periods)

    def tokens(self, images_NCYX: Float[Tensor, "N 3 Y X"]) -> Float[Tensor, "N P D"]:
        rows, columns = patch_grid(images_NCYX.shape[-2], images_NCYX.shape[-1], self.patch_size)
        backbone = self.backbone
        x_NLD = backbone.patch_embed.proj(images_NCYX).flatten(2).transpose(1, 2)
        prefix = torch.cat([backbone.cls_token, backbone.reg_token], dim=1)
        x_NLD = torch.cat([prefix.expand(len(x_NLD), -1, -1), x_NLD], dim=1)
        rotary = self._rotary(rows, columns)
        for block in backbone.blocks:
            x_NLD = block(x_NLD, rope=rotary)
        return self._select(x_NLD, prefix.shape[1])

    def _rotary(self, rows: int, columns: int) -> Tensor:
        """Sines and cosines `[rows*columns,2h]`; patch centres run from -1 to 1 whatever their number."""
        periods = self.periods.float()
        row, column = (
            (torch.arange(n, device=periods.device, dtype=torch.float32) + 0.5) / n * 2 - 1 for n in (rows, columns)
        )
        centres_L2 = torch.cartesian_prod(row, column)
        angles_Lh = (2 * math.pi * centres_L2[:, :, None] / periods).flatten(1).tile(2)
        return torch.cat([angles_Lh.sin(), angles_Lh.cos()], dim=-1)


def timm_names_of_dinov2(found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors by timm's names, from a file with official names or with timm's.

    With registers, timm adds the class token's position to the token itself and keeps positions of patches alone.

    Args:
        found: Tensors by name.
        where: File, for the error.

    Raises:
        CheckpointError: Two tensors that stand for the same one.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        name = key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2.")
        _put(tensors, "reg_token" if key == "register_tokens" else name, value, where)
    if "register_tokens" in found and {"cls_token", "pos_embed"} <= set(found):
        tensors["cls_token"] = found["cls_token"] + found["pos_embed"][:, :1]
        tensors["pos_embed"] = found["pos_embed"][:, 1:]
    return tensors


_V3_NAMES = {
    ".ls1.gamma": ".gamma_1",
    ".ls2.gamma": ".gamma_2",
    ".mlp.w1.": ".mlp.fc1_g.",
    ".mlp.w2.": ".mlp.fc1_x.",
    ".mlp.w3.": ".mlp.fc2.",
    "storage_tokens": "reg_token",
    "rope_embed.periods": "periods",
}


def timm_names_of_dinov3(found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors by timm's names, from a file with official names or with timm's.

    The official bias of queries, keys and values is multiplied by a mask that silences the keys' third; timm has no
    bias of keys. Where timm leaves out the biases of a whole model, they are zero.

    Args:
        found: Tensors by name.
        where: File, for the error.

    Raises:
        CheckpointError: Two tensors that stand for the same one, or a bias of keys that is not silenced.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in found.items():
        attention = key.removesuffix("qkv.bias")
        if key.endswith(".attn.qkv.bias_mask") and key.removesuffix("_mask") in found:
            continue
        if key.endswith(".attn.qkv.bias"):
            bias = value * found[f"{key}_mask"].to(value.dtype) if f"{key}_mask" in found else value
            q_bias, k_bias, v_bias = bias.chunk(3)
            if not (k_bias == 0).all():
                raise CheckpointError(f"{where}: the keys' third of {key} is not masked to zero, as DINOv3's is")
            _put(tensors, f"{attention}q_bias", q_bias, where)
            _put(tensors, f"{attention}v_bias", v_bias, where)
            continue
        name = key
        for official, ours in _V3_NAMES.items():
            name = name.replace(official, ours)
        _put(tensors, name, value, where)
    if not any(name.endswith((".q_bias", ".v_bias")) for name in tensors):
        for name, weight in list(tensors.items()):
            if name.endswith(".attn.qkv.weight"):
                attention = name.removesuffix("qkv.weight")
                tensors[f"{attention}q_bias"] = weight.new_zeros(len(weight) // 3)
                tensors[f"{attention}v_bias"] = weight.new_zeros(len(weight) // 3)
    return tensors


def _put(tensors: dict[str, Tensor], name: str, value: Tensor, where: str) -> None:
    if name in tensors:
        raise CheckpointError(f"{where}: two tensors stand for {name}")
    tensors[name] = value
