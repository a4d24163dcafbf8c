"""Checks of arguments of environments. Each error names the argument, what was expected and what was found."""

import difflib
import importlib
import numbers
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

# Far outside every world here. Larger numbers can overflow in a simulator, which then aborts the whole process.
LARGEST = 1e6

# Messages about vectors name this many elements at most.
MOST_NAMES = 12

MIN_IMAGE_SIZE_PX, MAX_IMAGE_SIZE_PX = 16, 512


def require(package: str, install: str) -> ModuleType:
    """Imports a simulator or says how to install it.

    Args:
        package: Import name.
        install: Argument for `pip install`.

    Raises:
        ImportError: The package is not installed.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(
            f"this environment needs the package '{package}', which is not installed; run: pip install \"{install}\""
        ) from error


def vector(argument: str, value: Any, names: Sequence[str]) -> np.ndarray:
    """Returns a copy of `value` as a float64 vector `[len(names)]`.

    Args:
        argument: Name of the argument, for the message.
        value: Anything array-like.
        names: Names of the elements, in order.

    Raises:
        ValueError: Wrong shape, not numbers, not finite, or beyond `LARGEST`.
    """
    shown = names if len(names) <= MOST_NAMES else [*names[: MOST_NAMES - 1], "..."]
    expected = f"expected {len(names)} numbers ({', '.join(shown)})"
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{argument}: {expected}, found {value!r}") from error
    if array.shape != (len(names),):
        raise ValueError(f"{argument}: {expected}, found an array of shape {array.shape}")
    # The comparison also finds NaN, which is not smaller than any number.
    if not np.abs(array).max() <= LARGEST:
        found = np.array2string(array, threshold=2 * MOST_NAMES, separator=", ")
        raise ValueError(f"{argument}: {expected}, all finite and at most {LARGEST:g} in size, found {found}")
    return array


def known_name(argument: str, name: Any, known: Iterable[str]) -> str:
    """Returns `name` if it is one of `known`.

    Raises:
        ValueError: `name` is unknown; the message suggests the closest known name.
    """
    known = sorted(known)
    if name in known:
        return name
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else "nothing close to it is known"
    raise ValueError(f"{argument}: expected one of {', '.join(known)}; found {name!r} ({hint})")


def image_size(value: Any) -> int:
    """Returns the side of a picture [px] as an int.

    Raises:
        ValueError: Not a whole number from 16 to 512.
    """
    is_whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not is_whole or not MIN_IMAGE_SIZE_PX <= value <= MAX_IMAGE_SIZE_PX:
        raise ValueError(
            f"image_size: expected a whole number of px from {MIN_IMAGE_SIZE_PX} to {MAX_IMAGE_SIZE_PX}, "
            f"found {value!r}"
        )
    return int(value)
