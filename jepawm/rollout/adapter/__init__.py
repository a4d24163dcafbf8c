"""Any Gymnasium environment behind the contract of ours."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepawm.rollout.adapter.environment import AdaptedEnv, RandomWalk

__all__ = ["AdaptedEnv", "RandomWalk"]


def __getattr__(name: str) -> Any:
    """The adapter without importing gymnasium before an environment is adapted."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(importlib.import_module(f"{__name__}.environment"), name)
