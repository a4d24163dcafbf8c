"""A model in two stages: the encoder below a compact one is trained by a run of its own, before the run's own model."""

from dataclasses import replace

from jepawm.config import RunConfig
from jepawm.config.compact import CompactEncoderConfig


def base_run(config: RunConfig) -> RunConfig | None:
    """The run that trains the encoder below a compact one; None where none is to be trained.

    Raises:
        ConfigError: Settings of the base's training that do not go together.
    """
    encoder = config.model.encoder
    if not isinstance(encoder, CompactEncoderConfig) or not encoder.trains_base:
        return None
    stage = encoder.base_training
    return replace(
        config,
        model=replace(config.model, encoder=encoder.base, predictor=stage.predictor),
        data=replace(config.data, num_frames_in_window=stage.num_frames_in_window, features="encode"),
        loss=stage.loss,
        optim=stage.optim,
        train=stage.train,
    )


def on_base(config: RunConfig, base_model: str) -> RunConfig:
    """The run with the trained encoder that its compact one stands on."""
    assert isinstance(config.model.encoder, CompactEncoderConfig)
    encoder = replace(config.model.encoder, weights=base_model)
    return replace(config, model=replace(config.model, encoder=encoder))
