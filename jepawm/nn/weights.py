"""Weight files: found, fetched, read without executing anything, and loaded strictly.

A source is a path, `https://...`, or `hf://OWNER/REPO/FILE[@REVISION]`. Files are read with safetensors or with torch's
tensors-only unpickler; nothing in them is ever run.
"""

import hashlib
import http.client
import os
import pickle
import re
import shutil
import struct
import urllib.parse
import urllib.request
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from jepawm.errors import CheckpointError, ConfigError, first_line, require

# What torch, safetensors and struct raise on bytes that are not what they claim to be.
_DAMAGE = (
    *(pickle.UnpicklingError, OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, EOFError),
    *(AssertionError, struct.error),
)
_ZIP, _BEFORE_1_6 = b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SHOWN = 10


class MoreThanTensorsError(CheckpointError):
    """A file that would have to execute something to be read in full."""


def cache_dir() -> Path:
    """Where downloaded weights stay: `$JEPAWM_CACHE/weights`, else `~/.cache/jepawm/weights`."""
    root = os.environ.get("JEPAWM_CACHE") or os.path.expanduser("~/.cache/jepawm")
    return Path(root) / "weights"


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def locate(source: str, *, hint: str = "") -> str:
    """Path of a weight file, fetched first if it lies elsewhere.

    Args:
        source: A path, a URL, or `hf://OWNER/REPO/FILE[@REVISION]`.
        hint: Where to get the file by hand; ends the error's sentence.

    Raises:
        CheckpointError: Not there, not reachable, or not in the cache while offline.
        ConfigError: A source that is none of the three.
    """
    hint = f"; {hint}" if hint else ""
    if source.startswith("hf://"):
        return _from_hub(source, hint)
    if source.startswith(("https://", "http://")):
        return _from_url(source, hint)
    if "://" in source:
        raise ConfigError(f"weights '{source}': expected a path, https://... or hf://OWNER/REPO/FILE[@REVISION]")
    path = os.path.expanduser(source)
    if not os.path.isfile(path):
        raise CheckpointError(f"weight file not found: {path}{hint}")
    return path


def _from_hub(source: str, hint: str) -> str:
    hub = require("huggingface_hub", "vision")
    name, _, revision = source.removeprefix("hf://").partition("@")
    parts = name.split("/", 2)
    if len(parts) < 3 or not all(parts):
        raise ConfigError(f"weights '{source}': expected hf://OWNER/REPO/FILE[@REVISION]")
    try:
        return str(
            hub.hf_hub_download(
                f"{parts[0]}/{parts[1]}", parts[2], revision=revision or None, local_files_only=offline()
            )
        )
    except (OSError, ValueError, hub.errors.HfHubHTTPError) as error:
        where = "is not in the local cache and HF_HUB_OFFLINE is set" if offline() else "cannot be fetched"
        own = "; a file at hand is named by its path (model.encoder.weights, encoder_weights=, checkpoint=)"
        raise CheckpointError(f"{source} {where}: {first_line(error)}{hint}{own}") from error


def _from_url(url: str, hint: str) -> str:
    # The address is part of the name: two files called latest.pth are two files. A query is not: it may be long.
    file_name = os.path.basename(urllib.parse.urlsplit(url).path)[-100:]
    name = f"{hashlib.sha256(url.encode()).hexdigest()[:12]}-{file_name}"
    path = cache_dir() / name
    if path.is_file():
        return str(path)
    if offline():
        raise CheckpointError(f"{url} is not in the local cache ({path}) and HF_HUB_OFFLINE is set{hint}")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    try:
        with urllib.request.urlopen(url, timeout=60) as answer, open(temporary, "wb") as file:
            shutil.copyfileobj(answer, file, 1 << 20)
            expected = answer.headers.get("Content-Length")
        if expected is not None and int(expected) != temporary.stat().st_size:
            raise CheckpointError(f"{url} broke off: {temporary.stat().st_size} of {expected} bytes; run it again")
        os.replace(temporary, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise CheckpointError(f"{url} cannot be fetched: {first_line(error)}{hint}") from error
    finally:
        temporary.unlink(missing_ok=True)
    return str(path)


def model_folder(source: str) -> str:
    """The model folder at a path: the folder itself, or the one inside a run.

    Raises:
        CheckpointError: Neither is there.
    """
    for folder in (source, os.path.join(source, "model")):
        if os.path.isfile(os.path.join(folder, "model.safetensors")):
            return folder
    raise CheckpointError(f"{source} is neither a model folder nor a run with one: there is no model.safetensors")


def read_tensors(path: str) -> dict[str, Any]:
    """Reads a `.safetensors` file, or a torch file with tensors and plain containers only.

    Args:
        path: Of the file.

    Returns:
        What the file holds, on the CPU: tensors by name, or nested mappings of such.

    Raises:
        CheckpointError: The file is damaged or truncated.
        MoreThanTensorsError: It holds something that would have to be executed.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        if path.endswith(".safetensors"):
            return load_file(path)
        with open(path, "rb") as file:
            start = file.read(len(_BEFORE_1_6))
        if start[: len(_ZIP)] != _ZIP and start != _BEFORE_1_6:
            raise ValueError("it does not begin as a file of torch does")
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, *_DAMAGE) as error:
        # torch's own advice is to read the file without this protection; it is not repeated.
        named = re.search(r"GLOBAL (\w+(?:\.\w+)*) ", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if named is not None:
            raise MoreThanTensorsError(
                f"{path} holds more than tensors ({named[1]}) and is not read; nothing in it was executed"
            ) from error
        raise CheckpointError(f"{path} is damaged or truncated: {first_line(error)}") from error
    if not isinstance(found, dict):
        raise CheckpointError(
            f"{path} is not a checkpoint: expected a mapping of tensors, found {type(found).__name__}"
        )
    return found


def only_tensors(found: Any, where: str) -> dict[str, Tensor]:
    """The mapping itself, once every value is known to be a tensor.

    Raises:
        CheckpointError: A key that is not text, or a value that is not a tensor.
    """
    if not isinstance(found, Mapping):
        raise CheckpointError(f"{where}: expected tensors by name, found {type(found).__name__}")
    for key, value in found.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{where}: expected tensors by name, found {type(value).__name__} under {key!r}")
    return dict(found)


def load_strict(
    module: nn.Module,
    found: Mapping[str, Tensor],
    where: str,
    *,
    rename: Callable[[str], str] | None = None,
    ignored: Collection[str] = (),
    cause: str | Callable[[], str] = "",
) -> None:
    """Puts tensors into a module; every name and shape must fit.

    Args:
        module: Changed in place.
        found: Tensors by name.
        where: File (and part of it) for the error.
        rename: Names in the file to names in the module.
        ignored: Names, after renaming, that the file may hold and the module need not.
        cause: What is likely wrong, for the error, or how to find out.

    Raises:
        CheckpointError: A name that is missing, unexpected or given twice, a shape or a kind of number that does not
            fit; the first ten are listed.
    """
    expected = module.state_dict()
    given: dict[str, Tensor] = {}
    problems = []
    for key, value in found.items():
        name = rename(key) if rename is not None else key
        if name in given:
            problems.append(f"{key} and another tensor both stand for {name}")
        given[name] = value
    missing = [f"missing {key}" for key in expected if key not in given]
    unexpected = [f"unexpected {key}" for key in given if key not in expected and key not in ignored]
    if missing and unexpected:
        # Both halves are shown: names that differ by a prefix are only recognised side by side.
        half = _SHOWN // 2
        missing = missing[:half] + unexpected[:half] + missing[half:]
        unexpected = unexpected[half:]
    problems += missing + unexpected
    for key, value in expected.items():
        if key in given and given[key].shape != value.shape:
            problems.append(f"{key} has shape {list(given[key].shape)}, expected {list(value.shape)}")
        elif key in given and given[key].is_floating_point() != value.is_floating_point():
            problems.append(f"{key} holds {given[key].dtype}, expected {value.dtype}")
    if problems:
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        reason = cause() if callable(cause) else cause
        because = f" ({reason})" if reason else ""
        raise CheckpointError(f"{where} does not fit the model{because}: {'; '.join(problems[:_SHOWN])}{more}")
    module.load_state_dict({key: given[key] for key in expected})


def sha256(path: str) -> str:
    """SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
