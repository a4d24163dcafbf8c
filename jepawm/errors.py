"""Typed errors: each message says what is wrong, where, what was expected and found, and what to do.

Command-line entry points print a `JepawmError` as one line and exit with its `exit_code`; anything else is a bug
in jepawm and keeps its traceback.
"""

import difflib
import importlib
import pickle
import re
from collections.abc import Iterable
from types import ModuleType

_PASSWORD = re.compile(r"(\w+://[^\s/:@]*:)[^\s/@]+@")
_SECRET_PARAMETER = re.compile(
    r"([?&][^\s=&]*(?:sig|token|key|secret|password|credential|policy)[^\s=&]*=)[^\s&'\")]+", re.IGNORECASE
)


def without_secrets(text: str) -> str:
    """A text whose addresses show no password, and no signature, token or key of a signed address."""
    return _SECRET_PARAMETER.sub(r"\1***", _PASSWORD.sub(r"\1***@", text))


class JepawmError(Exception):
    """Base of every error a user can cause and mend. Addresses in its text show no passwords and no signatures."""

    exit_code: int = 1

    def __str__(self) -> str:
        return without_secrets(super().__str__())


class ConfigError(JepawmError):
    """A wrong key, value or combination in a recipe or on the command line."""

    exit_code = 2


class DataError(JepawmError):
    """A dataset that is missing, damaged, or does not hold what was asked of it."""


class EnvironmentFault(JepawmError):
    """A simulator that cannot be made, or died more often than it may."""


class TrainingError(JepawmError):
    """Training cannot go on: a loss that is not finite, no windows, a batch that cannot be split."""


class PlanningError(JepawmError):
    """A planner was handed costs or bounds that no plan can be chosen from."""


class CheckpointError(JepawmError):
    """A checkpoint that is missing, damaged, or belongs to another model or format."""


class PlacementError(JepawmError):
    """A cluster that has no room for the processes of a run."""


class TrackingError(JepawmError):
    """The tracker does not open or does not answer; metrics.jsonl is complete all the same."""


class BudgetError(JepawmError):
    """A run has used the hours that it may; it ended at a checkpoint and can be continued."""

    exit_code = 3


class StorageError(JepawmError):
    """An object store that does not answer, refuses, or holds something else than expected."""


class FolderGoneError(JepawmError):
    """A folder that a command works in went away, as a file system does that is no longer mounted."""


class FolderInUseError(ConfigError):
    """Another process of this machine works in a folder that one process at a time may work in."""


class MissingDependencyError(JepawmError):
    """An optional package is not installed."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns `" (did you mean 'x'?)"` for the closest known word, else the known words themselves."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if close:
        return f" (did you mean '{close[0]}'?)"
    return f" (known: {', '.join(known)})"


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type's name."""
    if isinstance(error, pickle.UnpicklingError):
        # torch's text is advice to read the file without protection.
        return "its pickle cannot be read"
    return (without_secrets(str(error)).strip().splitlines() or [type(error).__name__])[0]


def require(package: str, extra: str | None = None) -> ModuleType:
    """Imports an optional package or says how to install it.

    Args:
        package: Import name, e.g. `"av"`.
        extra: The extra of jepawm that brings it, or None for a core dependency.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != package.split(".")[0]:
            raise
        target = f'"jepawm[{extra}]"' if extra else f'"{package}"'
        raise MissingDependencyError(
            f"the package '{package}' is needed here and is not installed; run: pip install {target}"
        ) from error
