"""`jepawm ckpt show | convert`: what a checkpoint is, and a published one as a folder of ours."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tyro.conf import Positional

from jepawm.cli.group import run_group
from jepawm.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from jepawm.hub import PublishedFile


@dataclass(frozen=True)
class Show:
    """Say what a checkpoint is: a folder of ours, or a published file (the pickled ones of DINO-WM too)."""

    path: Positional[str]
    """A folder or file, `https://...`, or `hf://OWNER/REPO/FILE[@REVISION]`."""
    keys: bool = False
    """List every tensor."""

    def run(self) -> int:
        """Prints what was found."""
        lines = _folder(self.path, self.keys) if os.path.isdir(self.path) else _file(self.path, self.keys)
        print("\n".join(lines))
        return 0


@dataclass(frozen=True)
class Convert:
    """Write a published checkpoint as a model folder, ready for `jepawm evaluate` and jepawm.load."""

    source: Positional[str]
    """The published file: a path, `https://...`, or `hf://OWNER/REPO/FILE[@REVISION]`."""
    destination: Positional[Path]
    """The folder to write; it must not exist."""
    name: str | None = None
    """Which published model it is (`jepa_wm_wall`, ...). Needed where several have the same shapes."""
    encoder_weights: str | None = None
    """Where the backbone's weights are; by default the published place. They are named in the folder, not copied.
    `none`: a model without an encoder, whose latents are given."""

    def run(self) -> int:
        """Prints where the model is."""
        from jepawm.checkpoints.model_folder import save_world_model
        from jepawm.hub import load_dino_wm, load_published_run, read_published
        from jepawm.nn.weights import locate

        if self.destination.exists():
            raise ConfigError(f"{self.destination} exists; give a folder that does not")
        encoder_weights = self.encoder_weights
        if encoder_weights not in (None, "timm", "none") and "://" not in encoder_weights:
            # The folder names the file; it must still be found from elsewhere.
            encoder_weights = os.path.abspath(locate(encoder_weights))
        if os.path.isdir(self.source):
            raise ConfigError(f"{self.source} is a folder; give a published file")
        file = read_published(self.source)
        if not file.pickled:
            name = self.name or _only_fitting(file)
            model, spec = load_published_run(name, file, encoder_weights=encoder_weights)
        elif self.name is None or not self.name.startswith("dino_wm_"):
            raise ConfigError(
                f"{self.source} is an original DINO-WM checkpoint: say of which environment with --name dino_wm_pusht, "
                "dino_wm_pointmaze or dino_wm_wall"
            )
        else:
            name, env = self.name, self.name.removeprefix("dino_wm_")
            model, spec = load_dino_wm(file, env, encoder_weights=encoder_weights)
        save_world_model(self.destination, model, spec)
        parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{self.destination}: {name}, {parameters:,} parameters beside its encoder's")
        return 0


def _only_fitting(file: "PublishedFile") -> str:
    fitting = file.fitting_models()
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise ConfigError(f"{file.path} has the shapes of {' and '.join(fitting)}; say which it is with --name")
    raise CheckpointError(f"{file.path} has the shapes of no published model; see jepawm ckpt show {file.path}")


def _folder(path: str, keys: bool) -> list[str]:
    from jepawm.checkpoints.model_folder import FORMAT_VERSION, encoder_sha256, read_spec, weights_sha256
    from jepawm.nn.weights import read_tensors

    inside = os.path.join(path, "model")
    path = inside if os.path.isdir(inside) else path
    spec = read_spec(path)
    tensors = read_tensors(os.path.join(path, "model.safetensors"))
    encoder, predictor = spec.model.encoder, spec.model.predictor
    source, size = encoder.weights_source, getattr(encoder, "size", None)
    weights = f", weights {source}" if source else ""
    what = f"{encoder.name}{f' {size}' if size else ''}, "
    what += f"{'trained' if encoder.trainable else 'frozen'}{weights}"
    what = "none, latents are given" if encoder.name == "none" else what
    fingerprint = encoder_sha256(path)
    lines = [
        f"{path}: a jepawm model, format {FORMAT_VERSION}",
        f"encoder      {what}",
        *([f"             SHA-256 of its weights {fingerprint}"] if fingerprint else []),
        f"predictor    {predictor.name}, context window {predictor.context_window}; proprio: "
        f"{spec.model.proprio.encoding}",
        f"environment  {spec.run.get('env', {}).get('id', 'not named')}, {spec.image_size} px, frameskip "
        f"{spec.frameskip}",
        f"action       {spec.action.dim} numbers {', '.join(spec.action.names)}; mean "
        f"{_numbers(spec.statistics.action_mean)}, deviation {_numbers(spec.statistics.action_std)}",
        f"proprio      mean {_numbers(spec.statistics.proprio_mean)}, deviation "
        f"{_numbers(spec.statistics.proprio_std)}",
        f"SHA-256      {weights_sha256(path)}",
        *_summary({"model": tensors}, keys),
    ]
    if os.path.isfile(os.path.join(path, "training_state.pt")):
        lines.append("training_state.pt: training can go on from here")
    return lines


def _file(source: str, keys: bool) -> list[str]:
    from jepawm.hub import read_published

    file = read_published(source)
    facts = [f"{key} {value}" for key, value in file.parts.items() if isinstance(value, int | float | str)]
    fitting = file.fitting_models()
    lines = [f"{file.path}: {'pickled modules of DINO-WM, only tensors taken' if file.pickled else 'tensors'}"]
    lines += [", ".join(facts)] if facts else []
    if "predictor" in file.parts:
        lines.append(f"has the shapes of {', '.join(fitting) or 'no published model'}")
    top = {key: value for key, value in file.parts.items() if hasattr(value, "shape")}
    parts = {key: value for key, value in file.parts.items() if isinstance(value, Mapping)}
    return lines + _summary(({"tensors": top} if top else {}) | parts, keys)


def _summary(parts: Mapping[str, Mapping[Any, Any]], keys: bool) -> list[str]:
    lines = []
    for part, content in parts.items():
        tensors = dict(_tensors_in(content))
        numbers = sum(value.numel() for value in tensors.values())
        size = sum(value.numel() * value.element_size() for value in tensors.values())
        lines.append(f"{part:<18} {len(tensors)} tensors, {numbers:,} numbers, {size / 2**20:.1f} MiB")
        if keys:
            lines += [f"    {key} {list(value.shape)} {str(value.dtype)[6:]}" for key, value in tensors.items()]
    return lines


def _tensors_in(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Tensors by dotted name, of any nesting: an optimizer's state is a mapping of mappings."""
    items = content.items() if isinstance(content, Mapping) else enumerate(content)
    for key, value in items:
        if hasattr(value, "element_size"):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping | list | tuple):
            yield from _tensors_in(value, f"{prefix}{key}.")


def _numbers(values: Iterable[float]) -> str:
    return "[" + ", ".join(f"{value:.4g}" for value in values) + "]"


def main(argv: Sequence[str]) -> int:
    """Runs one command."""
    return run_group(
        argv,
        prog="jepawm ckpt",
        about="Look at checkpoints, and convert published ones. Needs no GPU and executes nothing in a file.",
        commands={"show": Show, "convert": Convert},
    )
