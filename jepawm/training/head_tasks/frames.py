"""Heads that draw frames: their losses, and how near the drawn frames are."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from jepawm.config.head import ImageHeadConfig, TransposedConvHeadConfig, VQVAEHeadConfig
from jepawm.heads import HeadShape
from jepawm.heads.image import Decoder, ImageHead, Normalization, from_unit, to_unit
from jepawm.training.head_tasks.base import MEASURED_ROWS, HeadBatch, HeadTask, Terms
from jepawm.training.image_metrics import LPIPS, at_size, image_metrics
from jepawm.training.latent_episodes import LatentEpisodes


class DecoderTask(HeadTask):
    """Heads that draw: the mean squared difference of normalised colours, at the size that the head draws.

    Reference: Zhou et al. 2024, DINO-WM, arXiv 2411.04983.
    """

    kept = frozenset({"pixels"})

    def __init__(self, config: ImageHeadConfig | VQVAEHeadConfig | TransposedConvHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.normalization: Normalization = config.normalization

    def losses(self, batch: HeadBatch) -> Terms:
        drawn, terms = self.draw_frames(batch.now.visual)
        pixel = F.mse_loss(drawn, from_unit(self.true_frames(batch, drawn), self.normalization))
        return {"loss": pixel + sum(terms.values()), "pixel": pixel, **terms}

    def draw_frames(self, visual_BPD: Float[Tensor, "B P D"]) -> tuple[Float[Tensor, "B 3 Y X"], Terms]:
        """Frames in the head's own normalisation, and further terms of the loss."""
        return self.head(visual_BPD[:, None])[:, 0], {}

    def true_frames(self, batch: HeadBatch, drawn: Float[Tensor, "B 3 Y X"]) -> Float[Tensor, "B 3 Y X"]:
        """The true frames in [0, 1], at the size of the drawn ones."""
        assert batch.pixels is not None, "`kept` asks for them"
        return at_size(batch.pixels, drawn.shape[-2:])

    def lpips(self) -> LPIPS | None:
        """What measures the perceptual distance; None: it is not measured."""
        return None

    @torch.no_grad()
    def measure(self, episodes: LatentEpisodes, generator: torch.Generator) -> dict[str, float]:
        """MSE, PSNR, SSIM and LPIPS of held-out frames; `mse_mean_frame` is the MSE of the mean of these frames."""
        rows = torch.randperm(len(episodes), generator=generator)[:MEASURED_ROWS]
        batch = self.batch(episodes, rows)
        assert batch.pixels is not None, "`kept` asks for them"
        assert isinstance(self.head, Decoder), "the kind builds one"
        drawn = torch.cat([self.head.decode(part[:, None])[:, 0] for part in batch.now.visual.split(64)])
        true = at_size(batch.pixels, drawn.shape[-2:])
        mean_frame = float((true - true.mean(dim=0)).square().mean())
        return {**image_metrics(drawn, batch.pixels, self.lpips()), "mse_mean_frame": mean_frame}


class VQVAETask(DecoderTask):
    """DINO-WM's decoder: the same, and with a codebook the distance of patches to their codes.

    `loss = |x - decoder(z)|^2 + commitment_weight * |z - code(z)|^2`
    """

    def __init__(self, config: VQVAEHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.config = config

    def draw_frames(self, visual_BPD: Tensor) -> tuple[Tensor, Terms]:
        frames, commitment = self.head(visual_BPD[:, None])
        weight = self.config.commitment_weight
        return frames[:, 0], {"commitment": weight * commitment} if self.config.quantize else {}


class ImageTask(DecoderTask):
    """The published image decoders: colours in [0, 1], and where it is asked for their perceptual distance.

    `loss = pixel_weight * |x - decoder(z)| + lpips_weight * LPIPS(x, decoder(z))`

    Reference: Terver et al. 2025, JEPA-WMs, arXiv 2512.24497.
    """

    def __init__(self, config: ImageHeadConfig, shape: HeadShape) -> None:
        super().__init__(config, shape)
        self.config = config
        # Not a module of its own: its weights are no part of the head, and never train.
        self._lpips = (None if config.lpips_weights is None else LPIPS(config.lpips_weights, config.lpips_network),)

    def prepare(self, episodes: LatentEpisodes) -> None:
        head = self.head
        if isinstance(head, ImageHead) and head.mean_frame is not None:
            assert episodes.pixels is not None, "`kept` asks for them"
            # In parts, for frames as floats take four times the memory of their bytes.
            total = torch.zeros_like(head.mean_frame)
            for part in episodes.pixels.split(256):
                total += at_size(part, total.shape[-2:]).sum(dim=0)
            mean = total / len(episodes.pixels)
            head.mean_frame.copy_(from_unit(mean, self.normalization))

    def losses(self, batch: HeadBatch) -> Terms:
        config = self.config
        drawn, _ = self.draw_frames(batch.now.visual)
        drawn, true = to_unit(drawn, self.normalization), self.true_frames(batch, drawn)
        pixel = F.l1_loss(drawn, true) if config.pixel_loss == "l1" else F.mse_loss(drawn, true)
        terms = {"pixel": pixel}
        loss = config.pixel_weight * pixel
        lpips = self.lpips()
        if config.lpips_weight and lpips is not None:
            terms["lpips"] = lpips(drawn, true).mean()
            loss = loss + config.lpips_weight * terms["lpips"]
        return {"loss": loss, **terms}

    def lpips(self) -> LPIPS | None:
        (lpips,) = self._lpips
        return None if lpips is None else lpips.to(next(self.head.parameters()).device)
