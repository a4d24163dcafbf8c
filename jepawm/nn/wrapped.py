"""Weight files that hold the right tensors under longer names: wrappers are taken off."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from jepawm.errors import CheckpointError
from jepawm.nn.weights import only_tensors

# Keys under which training code keeps a network beside its optimiser.
HOLDERS = ("model", "state_dict", "teacher")
# What DataParallel, torch.compile and a network around a backbone put in front of every name.
PREFIXES = ("module.", "_orig_mod.", "backbone.")
# Parts beside a backbone that the backbone itself does not have.
_HEADS = ("head.", "dino_head.", "ibot_head.")


def network_tensors(found: Mapping[str, Any], where: str) -> dict[str, Tensor]:
    """The tensors of a network by its own names, whatever saved it.

    Tensors may lie under `model`, `state_dict` or `teacher`, and all names may begin with `module.`, `_orig_mod.` or
    `backbone.`, several times over.

    Args:
        found: What a file holds.
        where: The file, for errors.

    Raises:
        CheckpointError: More than one network, values that are no tensors, or transformers' names.
    """
    held = [key for key in HOLDERS if isinstance(found.get(key), Mapping)]
    if len(held) > 1:
        raise CheckpointError(
            f"{where} holds {len(held)} networks ({', '.join(held)}); save the one that is meant in a file of its own"
        )
    if held:
        return network_tensors(found[held[0]], f"{where}['{held[0]}']")
    tensors = _without_prefixes(only_tensors(found, where))
    if any(name.startswith(("embeddings.", "encoder.layer.", "layer.0.")) for name in tensors):
        raise CheckpointError(
            f"{where}: its names are those of transformers ({next(iter(tensors))}, ...); give the official file or "
            "timm's of the same network"
        )
    return tensors


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        bodies = {name: value for name, value in tensors.items() if not name.startswith(_HEADS)}
        prefix = next((each for each in PREFIXES if bodies and all(name.startswith(each) for name in bodies)), None)
        if prefix is None:
            return tensors
        # The heads beside a backbone are no part of it.
        tensors = {name.removeprefix(prefix): value for name, value in bodies.items()}
