"""DINO-WM's convolutional decoder, with or without a codebook in front."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from jepawm.heads.image import Normalization, to_pixels
from jepawm.heads.vit import grid_of, published_head
from jepawm.nn import weights
from jepawm.nn.collectives import sum_over_workers


class Quantized(NamedTuple):
    """What a codebook makes of vectors.

    Attributes:
        vectors: The nearest codes, `[...,D]`; the gradient of the input is theirs, unchanged.
        commitment: Mean squared distance of the input to its codes; no gradient reaches the codes.
        code: Number of each code, `[...]`.
    """

    vectors: Tensor
    commitment: Tensor
    code: Tensor


class Codebook(nn.Module):
    """Replaces vectors by the nearest of a set of codes, which follow their vectors by a moving average.

    While training, every call moves the codes by the counts and sums of all workers. Codes that no vector chose keep
    their average and lose their count, so they move away and are hardly chosen again; the published codebook does the
    same.

    Args:
        dim: Width `D` of a vector.
        num_codes: Codes `K`.
        decay: Of the moving averages.
        eps: Count that every code has at least, as a share.

    Reference: van den Oord et al. 2017, VQ-VAE, arXiv 1711.00937, appendix A.1.
    """

    codes: Tensor
    counts: Tensor
    sums: Tensor

    def __init__(self, dim: int, num_codes: int, *, decay: float = 0.99, eps: float = 1e-5) -> None:
        super().__init__()
        self.decay = decay
        self.eps = eps
        codes = torch.randn(num_codes, dim)
        self.register_buffer("codes", codes)
        self.register_buffer("counts", torch.zeros(num_codes))
        self.register_buffer("sums", codes.clone())

    def forward(self, vectors: Float[Tensor, "*batch D"]) -> Quantized:
        """Quantises `[...,D]` vectors; in training mode the codes move afterwards."""
        flat = vectors.reshape(-1, vectors.shape[-1])
        index = self.nearest(flat.detach())
        chosen = self.codes[index].view(vectors.shape).to(vectors.dtype)
        if self.training:
            self._move(flat.detach().float(), index)
        commitment = F.mse_loss(vectors.float(), chosen.float())
        straight = vectors + (chosen - vectors).detach()
        return Quantized(straight, commitment, index.view(vectors.shape[:-1]))

    @torch.no_grad()
    def nearest(self, flat_ND: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """`[N]` number of the code with the smallest squared distance."""
        with torch.autocast(flat_ND.device.type, enabled=False):
            # The vector's own square is the same for all codes.
            return torch.addmm(self.codes.square().sum(1), flat_ND.float(), self.codes.T, alpha=-2).argmin(1)

    @torch.no_grad()
    def _move(self, flat_ND: Tensor, index_N: Tensor) -> None:
        K = len(self.codes)
        counts = torch.bincount(index_N, minlength=K).to(self.counts.dtype)
        sums = torch.zeros_like(self.sums).index_add_(0, index_N, flat_ND)
        self.counts.lerp_(sum_over_workers(counts), 1 - self.decay)
        self.sums.lerp_(sum_over_workers(sums), 1 - self.decay)
        total = self.counts.sum()
        smoothed = (self.counts + self.eps) / (total + K * self.eps) * total
        self.codes.copy_(self.sums / smoothed[:, None])


class Residual(nn.Module):
    """`x + Conv1x1(ReLU(Conv3x3(ReLU(x))))`.

    Args:
        channels: Of the input and output.
        hidden: Channels between the convolutions.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N C h w"]:
        """`[N,C,h,w]` to the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Upsample4(nn.Module):
    """Four times as many rows and columns: a convolution, residual blocks and two transposed convolutions.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        channels: Inside.
        num_residual: Residual blocks.
        residual_channels: Channels inside a residual block.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, channels: int, num_residual: int, residual_channels: int
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.residual = nn.ModuleList(Residual(channels, residual_channels) for _ in range(num_residual))
        self.up1 = nn.ConvTranspose2d(channels, channels // 2, 4, stride=2, padding=1)
        self.up2 = nn.ConvTranspose2d(channels // 2, out_channels, 4, stride=2, padding=1)

    def forward(self, x: Float[Tensor, "N C h w"]) -> Float[Tensor, "N c y x"]:
        """`[N,C,h,w]` to `[N,c,4h,4w]`."""
        x = self.first(x)
        for block in self.residual:
            x = block(x)
        return self.up2(F.relu(self.up1(F.relu(x))))


class VQVAEDecoder(nn.Module):
    """Draws frames 16 times as large as the latents' grid, as DINO-WM does; off its path without `quantize`.

    Args:
        latent_dim: Width `D` of the latents.
        channels: Channels inside.
        num_codes: Codes of the codebook. It is part of the module, and of its files, even when it is not used.
        num_residual: Residual blocks in each of the two stages.
        residual_channels: Channels inside a residual block.
        quantize: Put each patch through the codebook first. Off in the published models.
        normalization: Of the frames it was or will be trained to draw.
        grid: Rows and columns of the latents' patches; None: they are a square.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983.
    """

    def __init__(
        self,
        latent_dim: int = 384,
        *,
        channels: int = 384,
        num_codes: int = 2048,
        num_residual: int = 4,
        residual_channels: int = 128,
        quantize: bool = False,
        normalization: Normalization = "symmetric",
        grid: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.quantize = quantize
        self.normalization: Normalization = normalization
        self.grid = grid
        self.codebook = Codebook(latent_dim, num_codes)
        sizes = {"channels": channels, "num_residual": num_residual, "residual_channels": residual_channels}
        self.upsample = Upsample4(latent_dim, latent_dim, **sizes)
        self.draw = Upsample4(latent_dim, 3, **sizes)

    def forward(self, latents_BTPD: Float[Tensor, "B T P D"]) -> tuple[Float[Tensor, "B T 3 Y X"], Float[Tensor, ""]]:
        """Draws frames.

        Args:
            latents_BTPD: `[B,T,P,D]` latents.

        Returns:
            `[B,T,3,Y,X]` normalised frames, float32, and the commitment term (published weight 0.25), 0 without
            `quantize`.

        Raises:
            ConfigError: Latents of another width or number of patches.
        """
        grid = grid_of(latents_BTPD, self.latent_dim, self.grid)
        commitment = latents_BTPD.new_zeros((), dtype=torch.float32)
        vectors = latents_BTPD
        if self.quantize:
            vectors, commitment, _ = self.codebook(latents_BTPD)
        images = vectors.flatten(0, 1).transpose(1, 2).unflatten(2, grid)
        frames = self.draw(self.upsample(images)).float()
        return frames.unflatten(0, latents_BTPD.shape[:2]), commitment

    @torch.no_grad()
    def decode(self, latents_BTPD: Float[Tensor, "B T P D"]) -> UInt8[Tensor, "B T 3 Y X"]:
        """`[B,T,P,D]` latents to `[B,T,3,Y,X]` uint8 frames; see `to_pixels` for the rounding."""
        return to_pixels(self(latents_BTPD)[0], self.normalization)


def load_vqvae_decoder(head: VQVAEDecoder, source: str, *, part: str = "decoder") -> None:
    """Loads a file that holds the published decoder's tensors under one key.

    DINO-WM's own checkpoints are pickled modules; `vqvae_from_published` takes the tensors that were read from them.

    Args:
        head: Changed in place.
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        part: Key of the tensors in the file.

    Raises:
        CheckpointError: The file is missing, damaged, or of another head.
    """
    vqvae_from_published(head, *published_head(source, part, "take a checkpoint from the DINO-WM release"))


def vqvae_from_published(head: VQVAEDecoder, tensors: Mapping[str, Tensor], where: str) -> None:
    """Puts the published decoder's tensors into a head, strictly.

    Published are `quantize_b.{embed,cluster_size,embed_avg}`, codes as columns, and two stages `upsample_b.blocks` and
    `dec.blocks`, each a sequence whose places are counted with its activations.

    Args:
        head: Changed in place.
        tensors: By published name, without `module.`.
        where: File, for errors.

    Raises:
        CheckpointError: Names or shapes that do not fit.
    """
    columns = {"quantize_b.embed", "quantize_b.embed_avg"}
    turned = {key: value.T if key in columns and value.ndim == 2 else value for key, value in tensors.items()}
    names = {
        "quantize_b.embed": "codebook.codes",
        "quantize_b.cluster_size": "codebook.counts",
        "quantize_b.embed_avg": "codebook.sums",
    }
    for published, stage in (("upsample_b", "upsample"), ("dec", "draw")):
        count = len(getattr(head, stage).residual)
        places = {0: "first", count + 2: "up1", count + 4: "up2"}
        layers = {f"{place}": name for place, name in places.items()}
        for i in range(count):
            layers |= {f"{i + 1}.conv.1": f"residual.{i}.conv1", f"{i + 1}.conv.3": f"residual.{i}.conv2"}
        for place, name in layers.items():
            for kind in ("weight", "bias"):
                names[f"{published}.blocks.{place}.{kind}"] = f"{stage}.{name}.{kind}"
    weights.load_strict(
        head, turned, where, rename=lambda key: names.get(key, key), cause="are the channels and blocks the file's?"
    )
