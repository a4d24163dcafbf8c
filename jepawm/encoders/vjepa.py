"""V-JEPA and V-JEPA 2: video transformers that embed pairs of frames."""

import re
from collections.abc import Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.config.encoder import VideoEncoderConfig, VJEPA1EncoderConfig, VJEPA2EncoderConfig
from jepawm.encoders.base import Encoder, Widths, as_clips, compute_dtype, patch_grid, widths_of
from jepawm.encoders.preprocess import Preprocess
from jepawm.errors import CheckpointError, ConfigError, did_you_mean
from jepawm.nn import weights
from jepawm.nn.precision import at_least_float32
from jepawm.nn.rotary import frame_rotary_table
from jepawm.nn.transformer import Block, init_transformer_

TUBELET = 2
_PATCH_SIZE = 16
_EPS = 1e-6
# The table of V-JEPA 1: 16 frames of 224 x 224 pixels.
_TABLE_FRAMES, _TABLE_SIDE = 8, 14

Part = Literal["target_encoder", "encoder"]
_WHERE = {
    "vjepa1": "take vitl16.pth.tar from the V-JEPA release (dl.fbaipublicfiles.com/jepa/vitl16)",
    "vjepa2": "take vitl.pt, vith.pt, vitg.pt or vitg-384.pt from the V-JEPA 2 release (dl.fbaipublicfiles.com/vjepa2) "
    "or model.safetensors of hf://facebook/vjepa2-vitl-fpc64-256",
}

SIZES = {
    "small": Widths(384, 12, 6),
    "base": Widths(768, 12, 12),
    "large": Widths(1024, 24, 16),
    "huge": Widths(1280, 32, 16),
    "giant": Widths(1408, 40, 22, 48 / 11),
}


class VJEPAEncoder(Encoder):
    """The encoder of V-JEPA (`vjepa1`) or V-JEPA 2 (`vjepa2`).

    Two frames at a time are cut into patches of 2 x 16 x 16 by one linear map; pre-norm blocks and a final layer
    normalisation follow, without a class token. V-JEPA 2 turns queries and keys by time, row and column. V-JEPA 1 adds
    a fixed sine and cosine table; of it this is assumed, as in the released code and configurations: the table is made
    for 16 frames of 224 x 224 (`position_grid` 14) with an equal share of the channels for time, row and column
    (`uniform_power`); fewer frames at that size take its first entries; any other size is interpolated trilinearly,
    half-pixel centred, over all three axes. A file's own table is compared with it, so a wrong assumption is an error.

    Tokenization (`config.tokenization`): `frame` doubles each frame and encodes it by itself; `duplicated` doubles each
    frame and lets the whole window attend together; `clip` takes frames in pairs.

    Args:
        config: Name, size and its overrides, weights, pixel normalisation, tokenization, rotary pairing.
        image_size: Side of the square input frames, pixels.

    Attributes:
        num_patches: Tokens `P` of a latent.
        grid: Rows and columns of patches.
        latent_dim: Width `D`.
        frames_per_latent: 2 for tokenization `clip`, else 1.

    Raises:
        ConfigError: Frames that patches do not divide, a width that heads do not divide.
        CheckpointError: Weights that are missing or do not fit.

    Reference: Bardes et al. 2024, V-JEPA, arXiv 2404.08471; Assran et al. 2025, V-JEPA 2, arXiv 2506.09985.
    """

    position_table: Tensor

    def __init__(self, config: VideoEncoderConfig, image_size: int) -> None:
        if config.weights == "timm":
            raise ConfigError(f"timm has no weights of {config.name}; {_WHERE[config.name]}, or leave weights out")
        widths = widths_of(config, {"large": SIZES["large"]} if config.name == "vjepa1" else SIZES)
        if widths.dim // widths.num_heads % 2:
            raise ConfigError(
                f"{config.name} turns channels in pairs: model.encoder.latent_dim ({widths.dim}) over num_heads "
                f"({widths.num_heads}) must be even"
            )
        patch_size, side = config.patch_size or _PATCH_SIZE, config.resize_to or image_size
        super().__init__(
            grid=patch_grid(side, side, patch_size),
            latent_dim=widths.dim,
            frames_per_latent=config.frames_per_latent,
        )
        self.config = config
        self.patch_size = patch_size
        self.head_dim = widths.dim // widths.num_heads
        self.preprocess = Preprocess(config, image_size)
        kernel = (TUBELET, patch_size, patch_size)
        self.patch_embed = nn.Conv3d(3, widths.dim, kernel, stride=kernel)
        self.blocks = nn.ModuleList(
            Block(widths.dim, widths.num_heads, widths.hidden_dim, eps=_EPS) for _ in range(widths.depth)
        )
        self.norm = nn.LayerNorm(widths.dim, eps=_EPS)
        self.uses_table = isinstance(config, VJEPA1EncoderConfig)
        if isinstance(config, VJEPA1EncoderConfig):
            table_side = config.position_grid or _TABLE_SIDE
            table = sincos_3d(self.latent_dim, (_TABLE_FRAMES, table_side, table_side))
            self.register_buffer("position_table", table, persistent=False)
        nn.init.trunc_normal_(self.patch_embed.weight, std=0.02)
        if self.patch_embed.bias is not None:
            nn.init.zeros_(self.patch_embed.bias)
        init_transformer_(self, self.blocks)
        if config.weights is not None:
            load_vjepa(self, config.weights, part=config.weights_part)
        # The blocks behind the chosen layer have been checked against the file, and are not computed.
        self.blocks = self.blocks[: config.layer]

    def forward(self, pixels_BTCYX: Shaped[Tensor, "B T C Y X"]) -> Float[Tensor, "B U P D"]:
        """Encodes windows of frames.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8, 0 to 255.

        Returns:
            `[B,T',P,D]` latents, float32; `T' = T`, or `T / 2` for tokenization `clip`, where latent `t` holds frames
            `2t` and `2t + 1`.

        Raises:
            ConfigError: Frames of another size than the encoder was built for; an odd `T` for tokenization `clip`.
        """
        B, T = pixels_BTCYX.shape[:2]
        images = self.preprocess(pixels_BTCYX.flatten(0, 1), compute_dtype(self, pixels_BTCYX.device))
        clip = as_clips(images.unflatten(0, (B, T)), self.config.tokenization, TUBELET)
        return at_least_float32(self.tokens(clip)).view(
            B, T // self.frames_per_latent, self.num_patches, self.latent_dim
        )

    def tokens(
        self, clip_BCTYX: Float[Tensor, "B C T Y X"], keep_BL: Int[Tensor, "B L"] | None = None
    ) -> Float[Tensor, "B M D"]:
        """Normalised tokens of clips, time by time, row by row.

        Args:
            clip_BCTYX: `[B,C,T,Y,X]` normalised frames, `T` even; any size that patches divide.
            keep_BL: `[B,L]` the tokens to encode, by their place in the whole clip; the others are not seen, and those
                kept know their true positions. None: all `T/2 * rows * columns`.

        Returns:
            `[B,M,D]`, `M = L` or all tokens.

        Raises:
            ConfigError: Frames or patches that do not come out even.
        """
        T, Y, X = clip_BCTYX.shape[2:]
        if T % TUBELET or not T:
            raise ConfigError(f"a clip must have an even number of frames, found T = {T}")
        rows, columns = patch_grid(Y, X, self.patch_size)
        x = self.patch_embed(clip_BCTYX.to(compute_dtype(self, clip_BCTYX.device)))
        frames = T // TUBELET
        x = x.flatten(2).transpose(1, 2)
        if self.uses_table:
            x = x + self._positions(frames, rows, columns).to(x.dtype)
        rotary = None
        if not self.uses_table:
            assert isinstance(self.config, VJEPA2EncoderConfig), "V-JEPA has a position table"
            pairing = self.config.rotary_pairing
            rotary = frame_rotary_table(self.head_dim, frames, (rows, columns), 0, pairing, x.device)
        if keep_BL is not None:
            x = x.take_along_dim(keep_BL[:, :, None], dim=1)
            # One table a sample, alike for all heads.
            rotary = None if rotary is None else rotary.rows(keep_BL[:, None])
        for block in self.blocks:
            x = block(x, rotary=rotary)
        return self.norm(x)

    def _positions(self, frames: int, rows: int, columns: int) -> Tensor:
        """The table at another size, `[frames*rows*columns,D]`."""
        table = self.position_table
        if table.shape[1:3] == (rows, columns) and frames <= len(table):
            return table[:frames].flatten(0, 2)
        volume = table.permute(3, 0, 1, 2)[None]
        return F.interpolate(volume, size=(frames, rows, columns), mode="trilinear")[0].flatten(1).T


def sincos_3d(dim: int, shape: tuple[int, int, int]) -> Float[Tensor, "T H W D"]:
    """Fixed sines and cosines of time, row and column, a third of the channels each; the last third is cut to fit.

    Args:
        dim: Width `D`.
        shape: Times, rows and columns.

    Reference: Bardes et al. 2024, V-JEPA, arXiv 2404.08471 (as released, `uniform_power`).
    """
    share = 2 * -(-dim // 6)
    frequencies = 10000.0 ** (-torch.arange(share // 2, dtype=torch.float64) / (share / 2))
    parts = []
    for axis, length in enumerate(shape):
        angles = torch.arange(length, dtype=torch.float64)[:, None] * frequencies
        place = [1, 1, 1, share]
        place[axis] = length
        parts.append(torch.cat([angles.sin(), angles.cos()], dim=1).view(place).expand(*shape, share))
    return torch.cat(parts, dim=-1)[..., :dim].float()


def load_vjepa(encoder: VJEPAEncoder, source: str, *, part: Part = "target_encoder") -> None:
    """Loads published weights, strictly.

    A released file holds two encoders: `target_encoder`, the moving average, which the official hub loads and V-JEPA's
    evaluations use, and `encoder`, the trained one. JEPA-WMs built their V-JEPA 2 models on `encoder`, and the V-JEPA
    2-AC file holds nothing else. The choice is the caller's, never made by what a file happens to hold; the golden
    vectors do not tell them apart.

    The layout of transformers' `VJEPA2Model` (one encoder, so `part` has no meaning) is read too; it was tested on
    files of that layout made by the tests, not on the published ones.

    Args:
        encoder: Changed in place.
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        part: The encoder to load from a file of the release.

    Raises:
        CheckpointError: The file is missing or damaged, has no such part, or does not fit the encoder.
    """
    where = _WHERE[encoder.config.name]
    path = weights.locate(source, hint=where)
    found = weights.read_tensors(path)
    if any(name.startswith("encoder.embeddings.") for name in found):
        tensors, place = vjepa_from_transformers(weights.only_tensors(found, path)), path
    elif part in found:
        place = f"{path} ({part})"
        tensors = weights.only_tensors(found[part], place)
    else:
        raise CheckpointError(
            f"{path} has no '{part}'{did_you_mean(part, [str(key) for key in found])}; {where}, or name another part"
        )
    tensors = {published_name(key): value for key, value in tensors.items()}
    if encoder.uses_table and "pos_embed" in tensors:
        _check_table(encoder, tensors["pos_embed"], place)
    cause = "is model.encoder.size the file's?"
    weights.load_strict(encoder, tensors, place, ignored={"pos_embed"}, cause=cause)


def _check_table(encoder: VJEPAEncoder, found: Tensor, where: str) -> None:
    """A table is never loaded: it is a constant, and it must be the one that is computed here."""
    expected = encoder.position_table.flatten(0, 2)[None]
    if found.shape != expected.shape or not torch.allclose(found.float(), expected.to(found.device), atol=1e-4):
        raise CheckpointError(
            f"{where}: pos_embed {list(found.shape)} is not the sine and cosine table {list(expected.shape)} that this "
            "encoder computes; is model.encoder.position_grid the file's?"
        )


def published_name(key: str) -> str:
    """Name in a file of the release to the name in `VJEPAEncoder`."""
    return key.removeprefix("module.").removeprefix("backbone.").replace("patch_embed.proj.", "patch_embed.")


def vjepa_from_transformers(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The encoder of transformers' `VJEPA2Model` by the names of `VJEPAEncoder`.

    Queries, keys and values become one matrix; the file's predictor (`predictor.*`) is left out. Names that are not
    known stay, for the strict loader to refuse.

    Args:
        found: Tensors by transformers' names.

    Raises:
        CheckpointError: A layer without query, key or value.
    """
    tensors: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for key, value in found.items():
        if key.startswith("predictor."):
            continue
        name = key.removeprefix("encoder.").replace("embeddings.patch_embeddings.proj.", "patch_embed.")
        name = re.sub(r"^layer\.(\d+)\.", r"blocks.\1.", name).replace(".attention.", ".attn.")
        name = name.replace("layernorm.", "norm.")
        match = re.fullmatch(r"(.*\.attn\.)(query|key|value)\.(weight|bias)", name)
        if match:
            parts.setdefault(f"{match[1]}qkv.{match[3]}", {})[match[2]] = value
        else:
            tensors[name] = value
    for name, three in parts.items():
        missing = [part for part in ("query", "key", "value") if part not in three]
        if missing:
            raise CheckpointError(f"{name}: the file has no {' and no '.join(missing)} for it")
        tensors[name] = torch.cat([three["query"], three["key"], three["value"]])
    return tensors
