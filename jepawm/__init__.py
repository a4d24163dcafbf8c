"""jepawm: joint-embedding world models for physical planning, on Ray.

The story the rooms tell: episodes -> windows -> latents -> unroll -> plan -> rollout -> report.
Importing this package pulls in no ray, mlflow, gymnasium or simulator.
"""

from jepawm.errors import JepawmError

__all__ = ["JepawmError", "__version__"]
__version__ = "0.1.0"
