"""Encoder folders of a pretraining: written with the encoder's own settings, read strictly."""

import contextlib
import os

from safetensors.torch import save_file

from jepawm.config.exported import SETTINGS_FILE, WEIGHTS_FILE, check_agrees
from jepawm.config.yaml_io import save_yaml
from jepawm.encoders.video import VideoTransformer
from jepawm.errors import CheckpointError
from jepawm.nn import weights


def export_encoder(encoder: VideoTransformer, folder: str | os.PathLike[str]) -> None:
    """Writes an encoder that `model.encoder.weights FOLDER` reads.

    The settings are written last, and those of an earlier export are removed first, so a folder that has them is whole.

    Args:
        encoder: The encoder; a pretraining exports its teacher's, as published.
        folder: Made if absent; holds `model.safetensors` (names of `state_dict`) and `encoder.yaml` (kind, widths,
            patch size, normalisation) afterwards. `env.image_size` in `encoder.yaml` tells the reader which frames the
            encoder was trained on last; nothing takes it over, so a world model names its own `env.image_size`.
    """
    os.makedirs(folder, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        os.remove(os.path.join(folder, SETTINGS_FILE))
    tensors = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    save_file(tensors, os.path.join(folder, WEIGHTS_FILE))
    settings = {"model": {"encoder": encoder.own_settings()}, "env": {"image_size": encoder.image_size}}
    save_yaml(settings, os.path.join(folder, SETTINGS_FILE))


def load_exported(encoder: VideoTransformer, folder: str) -> None:
    """Reads an encoder folder, strictly.

    Args:
        encoder: Changed in place.
        folder: As `export_encoder` wrote it.

    Raises:
        CheckpointError: A file that is missing or damaged, or tensors that do not fit.
        ConfigError: Settings other than the folder's; the message has the flags.
    """
    check_agrees(folder, encoder.own_settings())
    path = os.path.join(folder, WEIGHTS_FILE)
    if not os.path.isfile(path):
        raise CheckpointError(f"{folder} has {SETTINGS_FILE} but no {WEIGHTS_FILE}; export the encoder again")
    found = weights.only_tensors(weights.read_tensors(path), path)
    weights.load_strict(encoder, found, path, cause="is it the folder of another encoder?")
