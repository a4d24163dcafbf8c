"""A pretraining of seconds: 24 px, patches of 8, a transformer of two blocks."""

from dataclasses import replace
from typing import Any

import torch

from jepawm.config.clips import AugmentConfig, ClipsConfig, ClipSourceConfig
from jepawm.config.encoder import EncoderConfig
from jepawm.config.masking import BlockSetConfig, MultiblockMaskConfig, ShareSetConfig
from jepawm.config.optim import OptimConfig, ScheduleConfig
from jepawm.config.pretrain import PretrainConfig, PretrainLoopConfig, StageConfig
from jepawm.config.pretraining_model import MaskPredictorConfig, PretrainingModelConfig, TeacherConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.training.loop import Metrics
from jepawm.training.place import TrainingPlace
from jepawm.training.pretrain_state import PretrainSnapshot

MASKS = MultiblockMaskConfig(
    sets=(BlockSetConfig(num_blocks=2, spatial_scale=(0.25, 0.25)), BlockSetConfig(1, (0.5, 0.5)))
)
SHARES = (ShareSetConfig(0.5, 0.3), ShareSetConfig(0.7, 0.2))


def tiny(*paths: str, **changes: Any) -> PretrainConfig:
    """Two stages, of 4 frames at 24 px and of 8 frames at 32 px; three updates each."""
    model = PretrainingModelConfig(
        EncoderConfig(name="vjepa2", latent_dim=24, depth=2, num_heads=2, patch_size=8, tokenization="clip"),
        MaskPredictorConfig(embed_dim=24, depth=1, num_heads=2, num_mask_tokens=2),
        teacher=TeacherConfig(momentum=0.9),
    )
    config = PretrainConfig(
        device="cpu",
        local=True,
        clips=ClipsConfig(
            sources=tuple(map(ClipSourceConfig, paths)),
            fps=None,
            frame_step=2,
            held_out_fraction=0.1,
            num_threads=1,
            augment=AugmentConfig(crop_scale=(0.6, 1.0)),
        ),
        masks=MASKS,
        model=model,
        optim=OptimConfig(learning_rate=3e-3, weight_decay=0.04, decayed="matrices", grad_clip_norm=None),
        stages=(
            StageConfig(4, 24, 3, 4, schedule=ScheduleConfig(name="wsd", warmup_steps=2)),
            StageConfig(8, 32, 3, 4, schedule=ScheduleConfig(name="linear", final_fraction=0.1)),
        ),
        train=PretrainLoopConfig(
            precision="float32", checkpoint_every=2, log_every=1, diagnostics_every=3, diagnostics_clips=8
        ),
        tracking=TrackingConfig(mlflow=False),
    )
    return replace(config, **changes)


class Kept:
    """Where a pretraining of a test goes: copies of its states, and its records.

    Args:
        restore_from: Folder of the checkpoint to continue.
        stop_at: Updates after which it is asked to end.
    """

    def __init__(self, restore_from: str | None = None, stop_at: int | None = None, **share: int) -> None:
        self.copies: dict[int, PretrainSnapshot] = {}
        self.records: list[Metrics] = []

        def save(copy: Any, record: Metrics) -> None:
            self.copies[record["train_step"]] = copy()

        self.place = TrainingPlace(
            restore_from, save, self.records.append, stop=lambda train_step: train_step == stop_at, **share
        )


def tensors_of(value: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Every tensor of nested plain data, by its path."""
    if isinstance(value, torch.Tensor):
        return {prefix: value}
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else ()
    return {path: tensor for key, item in items for path, tensor in tensors_of(item, f"{prefix}/{key}").items()}
