"""Number formats between modules."""

from torch import Tensor, float64, nn


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where that is what it was computed in.

    Latents leave a module in full precision whatever its layers compute in. A model that was put into float64 stays
    there, which is how tests compare two ways of computing the same numbers without rounding between them.
    """
    return x if x.dtype == float64 else x.float()


def like_weights(x: Tensor, module: nn.Module) -> Tensor:
    """The tensor in the number format of a module's weights.

    A module whose weights were cast once takes its inputs in that format; under autocast weights stay in float32, and
    so does the tensor.
    """
    return x.to(next(module.parameters()).dtype)
