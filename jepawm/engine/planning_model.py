"""A world model whose predictor is cast or compiled once for planning, and follows the model's weights."""

import copy
from dataclasses import dataclass
from itertools import chain
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from jepawm.nn.batch_norm import GlobalBatchNorm
from jepawm.nn.transformer import AdaptiveBlock, Block
from jepawm.predictors import Predictor
from jepawm.world_model import WorldModel

# Running statistics are sums over the whole training: they stay in float32, and so does what is computed with them.
_KEPT_IN_FLOAT32 = (GlobalBatchNorm,)

_MOST_SHAPES = 64

_Key = tuple[torch.dtype | None, bool]


@dataclass
class _Twin:
    """A model that shares all but the predictor.

    Attributes:
        model: The model that plans.
        state: State of the weights when they were last copied.
    """

    model: WorldModel
    state: tuple[tuple[int, int], ...]


_TWINS: "WeakKeyDictionary[WorldModel, dict[_Key, _Twin]]" = WeakKeyDictionary()


def planning_model(model: WorldModel, dtype: torch.dtype | None, *, compiled: bool = False) -> WorldModel:
    """The model with its predictor in a number format, cast once and kept.

    Under autocast every forward pass casts all weights and most activations anew. Here the predictor's weights are
    cast when they change: a later call with the same model copies them again only if they were trained or loaded
    meanwhile. (A change of a tensor's `.data` is not seen.) Normalisations and softmax compute in float32 inside their
    kernels, batch normalisation keeps its statistics in float32, and latents leave each step in float32.

    Args:
        model: The world model; in its own number format and uncompiled it is returned itself.
        dtype: Number format of the predictor's weights and activations; None: its own.
        compiled: Compile the predictor's blocks. Kinds of predictors without transformer blocks have none.

    Returns:
        A model that shares everything else.
    """
    if dtype is None and not compiled:
        return model
    twins = _TWINS.setdefault(model, {})
    key = (dtype, compiled)
    state = tuple(_version(each) for each in _tensors(model.predictor))
    twin = twins.get(key)
    if twin is None or _device_of(twin.model) != _device_of(model):
        # Tensors made under inference mode could not be differentiated through later.
        with torch.inference_mode(False):
            twin = twins[key] = _Twin(_with_predictor(model, _copied(model.predictor, dtype, compiled)), state)
    elif twin.state != state:
        with torch.no_grad():
            for mine, theirs in zip(_tensors(twin.model.predictor), _tensors(model.predictor), strict=True):
                mine.copy_(theirs)
        twin.state = state
    twin.model.training = model.training
    twin.model.predictor.train(model.predictor.training)
    return twin.model


def _copied(predictor: Predictor, dtype: torch.dtype | None, compiled: bool) -> Predictor:
    twin = copy.deepcopy(predictor).requires_grad_(False).to(dtype)
    for name, module in predictor.named_modules():
        if isinstance(module, _KEPT_IN_FLOAT32):
            twin.set_submodule(name, copy.deepcopy(module).requires_grad_(False))
    if compiled:
        import torch._dynamo

        # A function is compiled for each shape of a window, of a micro-batch and of what is left of it; torch gives up
        # after eight.
        dynamo = torch._dynamo.config
        dynamo.recompile_limit = max(dynamo.recompile_limit, _MOST_SHAPES)
        for module in twin.modules():
            if isinstance(module, Block | AdaptiveBlock):
                # Block by block: all blocks of a shape share one compiled function.
                module.extend = torch.compile(module.extend, dynamic=False)  # type: ignore[method-assign]
    return twin


def _with_predictor(model: WorldModel, predictor: Predictor) -> WorldModel:
    twin = copy.copy(model)
    # A shallow copy of a module shares the table of its parts.
    twin.__dict__["_modules"] = dict(model._modules)
    twin.predictor = predictor
    return twin


def _device_of(model: WorldModel) -> torch.device:
    return next(model.predictor.parameters()).device


def _tensors(predictor: Predictor) -> list[Tensor]:
    return list(chain(predictor.parameters(), predictor.buffers()))


def _version(tensor: Tensor) -> tuple[int, int]:
    """What changes when a tensor's numbers do."""
    return tensor.data_ptr(), 0 if tensor.is_inference() else tensor._version
