"""Encoder folders: the settings that come with the weights of a pretrained encoder.

A pretraining writes `RUN/encoder/` with `model.safetensors` and `encoder.yaml`. Where `model.encoder.weights` is such a
folder, the settings in it are those of the encoder, so nobody has to repeat widths and normalisation.
"""

import os
from collections.abc import Mapping
from typing import Any

from jepawm.errors import ConfigError

WEIGHTS_FILE, SETTINGS_FILE = "model.safetensors", "encoder.yaml"


def exported_folder(source: str) -> str | None:
    """The encoder folder that a source of weights is, itself or as `encoder/` inside a run; None: it is none."""
    for folder in (os.path.expanduser(source), os.path.join(os.path.expanduser(source), "encoder")):
        if os.path.isfile(os.path.join(folder, SETTINGS_FILE)):
            return folder
    return None


def exported_settings(folder: str) -> dict[str, Any]:
    """Settings of `model.encoder` that an encoder folder decides, as plain data.

    Raises:
        ConfigError: The folder's `encoder.yaml` is damaged.
    """
    from jepawm.config.yaml_io import read_yaml

    path = os.path.join(folder, SETTINGS_FILE)
    settings = read_yaml(path).get("model", {}).get("encoder")
    if not isinstance(settings, dict) or "name" not in settings:
        raise ConfigError(f"{path} must hold model.encoder with a name, found {settings!r}; export the encoder again")
    return settings


def check_agrees(folder: str, found: Mapping[str, Any]) -> None:
    """Refuses settings other than those that an encoder folder decides.

    Args:
        folder: The encoder folder.
        found: Settings of `model.encoder`; None: not given.

    Raises:
        ConfigError: Names each setting that differs, and the flags that are right.
    """
    expected = exported_settings(folder)
    wrong = [key for key, value in expected.items() if found.get(key) not in (None, value)]
    if wrong:
        flags = " ".join(f"--model.encoder.{key.replace('_', '-')} {expected[key]}" for key in wrong)
        differing = ", ".join(f"model.encoder.{key} {found[key]!r}" for key in wrong)
        raise ConfigError(
            f"model.encoder.weights {folder} holds an encoder that was pretrained with other settings, found "
            f"{differing}; leave these out, or pass {flags}"
        )
