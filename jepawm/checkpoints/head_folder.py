"""A head on disk: a folder beside the model whose latents it reads, bound to that model's weights.

```
MODEL/heads/NAME/
  format_version      "1"
  head.json           kind and settings, widths, SHA-256 of the model's weights, held-out metrics, how it was trained
  head.safetensors    weights
  metrics.jsonl       metrics of its training
```
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from jepawm.checkpoints.model_folder import HEADS, weights_sha256
from jepawm.config.head import HeadConfig
from jepawm.config.yaml_io import from_dict, to_dict
from jepawm.errors import CheckpointError, did_you_mean
from jepawm.files import atomic_folder, write_json
from jepawm.heads.registry import build_head
from jepawm.heads.shape import HeadShape
from jepawm.nn import weights

FORMAT_VERSION = 1
FILES = ("format_version", "head.json", "head.safetensors")


@dataclass(frozen=True)
class HeadSpec:
    """What fixes a head besides its weights, and what is known of it.

    Attributes:
        config: The kind, and its settings.
        shape: Widths that it reads and gives.
        model_sha256: SHA-256 of the weights of the model whose latents it was trained on.
        metrics: On held-out episodes, by name.
        training: How it was trained: the job, the dataset and its fingerprint, wall time.
    """

    config: HeadConfig
    shape: HeadShape
    model_sha256: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """What `head.json` holds."""
        return {
            "head": to_dict(self.config),
            "shape": self.shape.to_dict(),
            "model_sha256": self.model_sha256,
            "metrics": dict(self.metrics),
            "training": dict(self.training),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> "HeadSpec":
        """Inverse of `to_dict`; `where` names the file in errors."""
        return cls(
            config=from_dict(HeadConfig, data["head"], where),
            shape=HeadShape.from_dict(data["shape"]),
            model_sha256=data["model_sha256"],
            # JSON has no NaN.
            metrics={key: float("nan") if value is None else value for key, value in data["metrics"].items()},
            training=data["training"],
        )


def model_dir_of(path: str) -> str:
    """The model folder of a run, or the folder itself."""
    inside = os.path.join(path, "model")
    return inside if os.path.isdir(inside) else path


def head_names(model_dir: str) -> list[str]:
    """Names of the heads beside a model, in alphabetical order."""
    folder = os.path.join(model_dir, HEADS)
    if not os.path.isdir(folder):
        return []
    return sorted(entry for entry in os.listdir(folder) if os.path.isfile(os.path.join(folder, entry, FILES[0])))


def save_head(
    model_dir: str, name: str, head: nn.Module, spec: HeadSpec, metrics: list[dict[str, Any]] | None = None
) -> str:
    """Writes a head beside its model; it appears under its name only when it is whole.

    Args:
        model_dir: The model folder.
        name: Of the head's folder; an older head of that name is replaced.
        head: The weights.
        spec: What fixes the head besides its weights.
        metrics: Records of its training.

    Returns:
        The head's folder.
    """
    folder = os.path.join(model_dir, HEADS, name)
    os.makedirs(os.path.dirname(folder), exist_ok=True)
    with atomic_folder(folder) as temporary:
        (temporary / "format_version").write_text(f"{FORMAT_VERSION}\n")
        write_json(temporary / "head.json", spec.to_dict())
        save_file(
            {key: value.detach().cpu().contiguous() for key, value in head.state_dict().items()},
            temporary / "head.safetensors",
        )
        records = "".join(json.dumps(record) + "\n" for record in metrics or ())
        (temporary / "metrics.jsonl").write_text(records, encoding="utf-8")
    return folder


def read_head_spec(model_dir: str, name: str) -> HeadSpec:
    """The specification of a head, without its weights.

    Args:
        model_dir: The model folder.
        name: Of the head's folder.

    Raises:
        CheckpointError: No such head, a missing or damaged file, a newer format, or a head of another model.
    """
    folder = os.path.join(model_dir, HEADS, name)
    if not os.path.isdir(folder):
        names = head_names(model_dir)
        known = did_you_mean(name, names) if names else " (it has none)"
        raise CheckpointError(
            f"{model_dir} has no head '{name}'{known}; train one with jepawm train-head --model {model_dir} "
            "--head.name KIND"
        )
    missing = [each for each in FILES if not os.path.isfile(os.path.join(folder, each))]
    if missing:
        raise CheckpointError(f"{folder} is not a whole head: missing {', '.join(missing)}; train it again")
    version = Path(folder, "format_version").read_text().strip()
    if version != str(FORMAT_VERSION):
        raise CheckpointError(
            f"{folder}/format_version is '{version}', this jepawm reads '{FORMAT_VERSION}'; install a newer jepawm"
        )
    where = f"{folder}/head.json"
    try:
        spec = HeadSpec.from_dict(json.loads(Path(where).read_text(encoding="utf-8")), where)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where} is damaged: {error!r}; train the head again") from error
    found = weights_sha256(model_dir)
    if spec.model_sha256 != found:
        raise CheckpointError(
            f"{folder} was trained on the latents of a model with weights {spec.model_sha256[:16]}, the weights of "
            f"{model_dir} are {found[:16]}: its numbers would mean nothing; train it again"
        )
    return spec


def load_head(model_dir: str, name: str, device: str | torch.device = "cpu") -> tuple[nn.Module, HeadSpec]:
    """Reads a head, strictly.

    Args:
        model_dir: The model folder.
        name: Of the head's folder.
        device: Where the weights go.

    Returns:
        The head in evaluation mode, and its specification.

    Raises:
        CheckpointError: See `read_head_spec`; or weights that do not fit.
    """
    spec = read_head_spec(model_dir, name)
    path = os.path.join(model_dir, HEADS, name, "head.safetensors")
    head = build_head(spec.config, spec.shape)
    weights.load_strict(head, weights.read_tensors(path), path)
    return head.to(device).eval(), spec


def heads_of_kind(model_dir: str, *kinds: str) -> list[str]:
    """Names of the heads beside a model that are of some kinds (`head.name`).

    Raises:
        CheckpointError: See `read_head_spec`.
    """
    return [name for name in head_names(model_dir) if read_head_spec(model_dir, name).config.name in kinds]
