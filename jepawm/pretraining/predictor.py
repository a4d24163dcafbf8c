"""The predictor of mask-denoising, and its loss: what the encoder would have said of the patches it did not see."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.errors import CheckpointError, ConfigError, did_you_mean
from jepawm.nn import weights
from jepawm.nn.rotary import Pairing, RotaryTable, rotary_table
from jepawm.nn.transformer import Block, init_transformer_


class MaskPredictor(nn.Module):
    """Predicts the tokens of masked patches from those of the visible ones.

    Masked places enter as one learned token; every token knows its place by rotary embedding over time, row and column.
    The published module sorts its tokens by place first. Attention without a mask does not know their order, so they
    are taken as they come here, with the same result.

    Args:
        latent_dim: Width `D` of the encoder's tokens.
        grid: Rows and columns of patches of a frame.
        embed_dim: Width inside.
        depth: Blocks.
        num_heads: Attention heads.
        mlp_ratio: Width inside the feed-forward over `embed_dim`.
        num_mask_tokens: Learned tokens to choose from, one for each way of masking.
        rotary_pairing: As in `model.encoder.rotary_pairing`.

    Raises:
        ConfigError: `embed_dim` is not `num_heads` times an even width.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2.
    """

    def __init__(
        self,
        latent_dim: int,
        grid: tuple[int, int],
        *,
        embed_dim: int = 384,
        depth: int = 12,
        num_heads: int = 12,
        mlp_ratio: float = 4.0,
        num_mask_tokens: int = 10,
        rotary_pairing: Pairing = "published",
    ) -> None:
        super().__init__()
        if embed_dim % (2 * num_heads):
            raise ConfigError(f"embed_dim must be num_heads ({num_heads}) times an even width, found {embed_dim}")
        self.grid = grid
        self.head_dim = embed_dim // num_heads
        self.rotary_pairing: Pairing = rotary_pairing
        self.embed = nn.Linear(latent_dim, embed_dim)
        # One matrix: a step that uses one of its rows still reaches the whole parameter.
        self.mask_tokens = nn.Parameter(torch.zeros(num_mask_tokens, embed_dim))
        self.blocks = nn.ModuleList(
            Block(embed_dim, num_heads, round(embed_dim * mlp_ratio), eps=1e-6) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(embed_dim, eps=1e-6)
        self.proj = nn.Linear(embed_dim, latent_dim)
        init_transformer_(self, self.blocks)

    def forward(
        self,
        context_BLD: Float[Tensor, "B L D"],
        context_index_BL: Int[Tensor, "B L"],
        target_index_BM: Int[Tensor, "B M"],
        *,
        mask_token: int = 0,
    ) -> Float[Tensor, "B M D"]:
        """Predicts the target tokens.

        Args:
            context_BLD: `[B,L,D]` the encoder's tokens of the visible patches.
            context_index_BL: `[B,L]` their places in the whole clip, counted time by time and row by row.
            target_index_BM: `[B,M]` places to predict.
            mask_token: Which of the learned tokens stands for them, from 0.

        Returns:
            `[B,M,D]` predicted tokens, in the order of `target_index_BM`.

        Raises:
            ConfigError: `mask_token` is none of the predictor's.
        """
        if not 0 <= mask_token < len(self.mask_tokens):
            raise ConfigError(f"mask_token must lie in [0, {len(self.mask_tokens)}), found {mask_token}")
        M = target_index_BM.shape[1]
        context = self.embed(context_BLD)
        masked = self.mask_tokens[mask_token].to(context.dtype).expand(len(context), M, -1)
        x = torch.cat([context, masked], dim=1)
        rotary = self._rotary(torch.cat([context_index_BL, target_index_BM], dim=1))
        for block in self.blocks[:-1]:
            x = block(x, rotary=rotary)
        return self.proj(self.norm(self.blocks[-1](x, rotary=rotary)[:, -M:]))

    def _rotary(self, index_BN: Tensor) -> RotaryTable:
        """`[B,1,N,h]` angles of tokens at the places given."""
        rows, columns = self.grid
        in_frame = index_BN % (rows * columns)
        places = torch.stack([index_BN // (rows * columns), in_frame // columns, in_frame % columns], dim=-1)
        table = rotary_table(self.head_dim, places.flatten(0, 1), pairing=self.rotary_pairing)
        shape = (len(index_BN), 1, index_BN.shape[1], self.head_dim)
        return RotaryTable(table.cos.view(shape), table.sin.view(shape))


def denoising_targets(
    tokens_BLD: Float[Tensor, "B L D"], target_index_BM: Int[Tensor, "B M"]
) -> Float[Tensor, "B M D"]:
    """What is to be predicted: the target encoder's tokens of the whole clip, normalised, at the masked places.

    Args:
        tokens_BLD: `[B,L,D]` tokens of the whole clip; no gradient flows into them.
        target_index_BM: `[B,M]` masked places.

    Returns:
        `[B,M,D]`, every token with mean 0 and deviation 1.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, section 2.
    """
    chosen = tokens_BLD.detach().take_along_dim(target_index_BM[:, :, None], dim=1)
    return F.layer_norm(chosen.float(), chosen.shape[-1:])


def mask_denoising_loss(predicted: Sequence[Tensor], targets: Sequence[Tensor]) -> Float[Tensor, ""]:
    """Mean absolute error of each masking, averaged over the maskings.

    Args:
        predicted: One `[B,M,D]` a masking; `M` may differ.
        targets: The same shapes, from `denoising_targets`.

    Returns:
        Scalar.

    Raises:
        ConfigError: No masking, or shapes that differ.

    Reference: Assran et al. 2025, V-JEPA 2, arXiv 2506.09985, equation 1.
    """
    shapes = [[list(one.shape) for one in both] for both in (predicted, targets)]
    if not predicted or shapes[0] != shapes[1]:
        raise ConfigError(f"predicted and targets must be as many and of equal shapes, found {shapes[0]}, {shapes[1]}")
    errors = [F.l1_loss(one.float(), other.float()) for one, other in zip(predicted, targets, strict=True)]
    return torch.stack(errors).mean()


def load_mask_predictor(predictor: MaskPredictor, source: str) -> None:
    """Loads the predictor of a file of the V-JEPA 2 release, strictly.

    Args:
        predictor: Changed in place.
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.

    Raises:
        CheckpointError: The file is missing or damaged, has no predictor, or does not fit.
    """
    hint = "take vitl.pt, vith.pt, vitg.pt or vitg-384.pt from the V-JEPA 2 release (dl.fbaipublicfiles.com/vjepa2)"
    path = weights.locate(source, hint=hint)
    found = weights.read_tensors(path)
    if "predictor" not in found:
        raise CheckpointError(f"{path} has no 'predictor'{did_you_mean('predictor', [str(key) for key in found])}")
    where = f"{path} (predictor)"
    tensors = predictor_from_published(weights.only_tensors(found["predictor"], where), where)
    # A table of the released files that rotary embedding has no use for.
    weights.load_strict(predictor, tensors, where, ignored={"pos_embed"}, cause="are the widths and depth the file's?")


def predictor_from_published(found: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Tensors of the release by the names of `MaskPredictor`; the mask tokens become one matrix.

    Args:
        found: Tensors by the release's names.
        where: File, for the error.

    Raises:
        CheckpointError: Mask tokens that are not numbered from 0.
    """
    tensors: dict[str, Tensor] = {}
    masks: dict[str, Tensor] = {}
    for key, value in found.items():
        name = key.removeprefix("module.").removeprefix("backbone.")
        if name.startswith("mask_tokens."):
            masks[name.removeprefix("mask_tokens.")] = value.flatten()
        else:
            tensors[name.removeprefix("predictor_")] = value
    order = [str(number) for number in range(len(masks))]
    if sorted(masks) != sorted(order):
        raise CheckpointError(f"{where}: mask tokens must be numbered from 0, found {', '.join(sorted(masks))}")
    if masks:
        tensors["mask_tokens"] = torch.stack([masks[number] for number in order])
    return tensors
