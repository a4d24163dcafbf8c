"""Agents by name or folder."""

import os

from jepawm.agent.agent import Agent
from jepawm.checkpoints.model_folder import load_world_model
from jepawm.checkpoints.zoo import ZOO
from jepawm.device import pick_device
from jepawm.errors import ConfigError, did_you_mean
from jepawm.hub import load_published_run
from jepawm.storage.reading import fetched_model


def load_agent(
    source: str | os.PathLike[str],
    checkpoint: str | None = None,
    *,
    device: str = "auto",
    encoder_weights: str | None = None,
) -> Agent:
    """A model by name or folder, ready to plan.

    Args:
        source: A published model (`jepa_wm_wall`, ...), or the folder of one of ours, or its URI: a run, its `model`,
            or what `jepawm ckpt convert` wrote.
        checkpoint: Published models: a path, URL or `hf://` source of the file; None: fetched from the hub.
        device: `auto` (cuda, mps, cpu in this order) or a torch device.
        encoder_weights: Where the weights of a frozen backbone are; None: the published place, or the one they were
            trained from.

    Raises:
        ConfigError: Neither a folder nor a published model.
        CheckpointError: A file that cannot be had, is damaged, or is another model's.
        StorageError: The store of a URI does not answer.
    """
    name, place = os.fspath(source), pick_device(device)
    if name in ZOO:
        return Agent(*load_published_run(name, checkpoint, device=place, encoder_weights=encoder_weights))
    name = fetched_model(name)
    if os.path.isfile(name):
        raise ConfigError(f"{name} is a file; load it as jepawm.load(NAME, checkpoint='{name}') with the model's name")
    if not os.path.isdir(name):
        raise ConfigError(f"'{name}' is neither a folder nor a published model{did_you_mean(name, ZOO)}")
    if checkpoint is not None:
        raise ConfigError(f"{name} is a folder; checkpoint is for published models")
    inside = os.path.join(name, "model")
    folder = inside if os.path.isdir(inside) else name
    return Agent(*load_world_model(folder, place, encoder_weights=encoder_weights))
