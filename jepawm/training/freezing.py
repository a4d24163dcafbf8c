"""Which parameters of a trained model stay as they are while the others are trained on (`train.freeze`)."""

from collections.abc import Collection, Sequence
from fnmatch import fnmatchcase

from torch import nn

from jepawm.errors import ConfigError

_NAMES_SHOWN = 8


def frozen_names(names: Collection[str], patterns: Sequence[str]) -> list[str]:
    """The names that a pattern matches.

    Args:
        names: Of all parameters, as in `model.safetensors`.
        patterns: As file names are matched: `*` any letters, `?` one letter, `[ab]` one of these.

    Raises:
        ConfigError: A pattern that matches no name, or patterns that leave nothing to train.
    """
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            parts = sorted({name.split(".")[0] for name in names})
            shown = ", ".join(sorted(names)[:_NAMES_SHOWN])
            raise ConfigError(
                f"train.freeze: no parameter matches {pattern!r}; names begin with {', '.join(parts)} (there are "
                f"{len(names)}: {shown}, ...)"
            )
    found = [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]
    if len(found) == len(names):
        raise ConfigError(f"train.freeze {list(patterns)} freezes all {len(names)} parameters, so nothing would train")
    return found


def freeze_(module: nn.Module, patterns: Sequence[str]) -> None:
    """Makes the parameters that a pattern matches untrainable.

    Raises:
        ConfigError: See `frozen_names`.
    """
    parameters = dict(module.named_parameters())
    for name in frozen_names(parameters, patterns):
        parameters[name].requires_grad_(False)


def rest_frozen_(module: nn.Module) -> None:
    """Puts the parts whose parameters are all frozen into evaluation mode: their dropout and their running statistics
    rest as well.
    """
    for part in module.modules():
        own = list(part.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            part.eval()
