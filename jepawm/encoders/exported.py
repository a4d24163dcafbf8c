"""Encoder folders: `model.safetensors` and `encoder.yaml`, written by a pretraining, read by `model.encoder.weights`."""

import os

from jepawm.encoders.base import Encoder


def export_encoder(encoder: Encoder, folder: str | os.PathLike[str]) -> None:
    """Writes an encoder that `model.encoder.weights FOLDER` reads.

    Args:
        encoder: The encoder (a pretraining exports `pretraining.teacher.encoder`, as published).
        folder: Made if absent; holds `model.safetensors` and `encoder.yaml` (kind, widths, patch size, image size,
            normalisation) afterwards.
    """
    raise NotImplementedError
