"""Gives any Gymnasium environment the contract of jepawm's environments."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepawm.rollout.adapter.environment import AdaptedEnv, RandomWalk

__all__ = ["AdaptedEnv", "RandomWalk"]


def __getattr__(name: str) -> Any:
    """Imports the adapter, and with it gymnasium, at its first use."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.environment"), name)
