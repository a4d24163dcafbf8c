"""jepawm: joint-embedding world models for physical planning, on Ray.

The story the rooms tell: episodes -> windows -> latents -> unroll -> plan -> rollout -> report.
Importing this package pulls in no torch, ray, mlflow, gymnasium or simulator.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from jepawm.errors import JepawmError

if TYPE_CHECKING:
    from jepawm.agent import Agent

__all__ = ["JepawmError", "__version__", "load"]
__version__ = "0.1.0"


def load(
    source: "str | os.PathLike[str]",
    checkpoint: str | None = None,
    *,
    device: str = "auto",
    encoder_weights: str | None = None,
) -> "Agent":
    """A model by name (`jepa_wm_wall`), folder (a run) or MLflow version (`models:/NAME/1`), ready to plan.

    See `jepawm.agent.load_agent`, and `jepawm.tracking.registry` for registered models.
    """
    from jepawm.agent import load_agent
    from jepawm.tracking.registry import local_model

    return load_agent(local_model(source), checkpoint, device=device, encoder_weights=encoder_weights)


def __getattr__(name: str) -> Any:
    """`jepawm.hub` without importing torch before it is asked for."""
    if name == "hub":
        return importlib.import_module("jepawm.hub")
    raise AttributeError(f"module 'jepawm' has no attribute '{name}'")
