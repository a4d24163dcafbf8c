"""Makes an environment of a configuration: one that has the contract as it is, any other through the adapter."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jepawm.config import EnvConfig
from jepawm.errors import EnvironmentFault
from jepawm.rollout.adapter.options import AdapterOptions

METHODS = ("sample_start_goal", "render_state", "success")
CONTRACT = (*METHODS, "control_hz", "sim_state_names")

# Whoever has one of these means to offer all of the contract; `success` and `control_hz` are words of others as well.
_MEANT = ("sample_start_goal", "render_state")


@dataclass(frozen=True)
class Found:
    """What an `env.id` stands for.

    Attributes:
        env_id: As it was written.
        entry: The class, or the function that makes an environment.
        registered: Its id in Gymnasium's registry; None for a class or function that was named itself.
    """

    env_id: str
    entry: Callable[..., Any]
    registered: str | None

    def make(self, **kwargs: Any) -> Any:
        """The environment, without Gymnasium's time limit: whoever runs an episode decides on its length.

        Raises:
            EnvironmentFault: It cannot be made with these arguments.
        """
        import gymnasium

        try:
            if self.registered is None:
                return self.entry(**kwargs)
            return gymnasium.make(self.registered, disable_env_checker=True, max_episode_steps=-1, **kwargs)
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise EnvironmentFault(f"cannot make env.id '{self.env_id}': {error}") from error

    def takes(self, argument: str, *, by_name: bool = False) -> bool:
        """Whether it takes an argument; `by_name`: `**kwargs` alone does not count."""
        try:
            parameters = inspect.signature(self.entry).parameters.values()
        except (TypeError, ValueError):
            return not by_name
        return any(
            parameter.name == argument or (not by_name and parameter.kind is inspect.Parameter.VAR_KEYWORD)
            for parameter in parameters
        )


def find(env_id: str) -> Found:
    """What an id stands for: `id`, `module:id` with a registered id, or `module:Name` with a class or function.

    The module is imported first, which is when most packages register their ids; then a registered id wins over a
    name in the module.

    Raises:
        EnvironmentFault: No such module, id or name.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    module_name, colon, name = env_id.rpartition(":")
    # Before anything can import MuJoCo: without a screen its own choice fails.
    _prepare_rendering()
    module = _import_module(env_id, module_name) if colon else None
    try:
        spec = gymnasium.spec(name)
        if spec.entry_point is None:
            raise EnvironmentFault(f"cannot make env.id '{env_id}': {name} is registered without an entry point")
        entry: Any = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
        return Found(env_id, entry, name)
    except (gymnasium.error.Error, ImportError, AttributeError, ValueError) as error:
        entry = getattr(module, name, None)
        if callable(entry):
            return Found(env_id, entry, None)
        hint = ""
        if module is not None and name.isidentifier():
            hint = f"; and the module {module_name} has no class or function '{name}'"
        raise EnvironmentFault(f"cannot make env.id '{env_id}': {error}{hint}") from error


def make_env(config: EnvConfig) -> Any:
    """The environment of a configuration: with the contract, or made to have it by `jepawm.rollout.adapter`.

    Raises:
        EnvironmentFault: It cannot be made, has a part of the contract and lacks another, or cannot be adapted.
    """
    found = find(config.id)
    kwargs = config.make_kwargs()
    env: Any = None
    if inspect.isclass(found.entry):
        is_native = _means_contract(found.entry)
        if is_native:
            # Its methods are judged before it is made, which may already fail for want of an argument.
            _check_contract(config.id, found.entry, METHODS)
    else:
        # What a function makes is known when it has made it.
        env = found.make(**(_taken_kwargs(found, kwargs) if found.takes("image_size") else _own_kwargs(found, kwargs)))
        is_native = _means_contract(env.unwrapped)
        unknown = [key for key in AdapterOptions.NAMES if key in kwargs and not found.takes(key)]
        if is_native and unknown:
            raise EnvironmentFault(
                f"env.id '{config.id}' does not take {', '.join(unknown)} (env.options); only environments that are "
                "adapted do, this one has the contract itself"
            )
        if not is_native:
            env.close()
    if not is_native:
        return _adapt(found, kwargs)
    env = found.make(**kwargs) if env is None else env
    _check_contract(config.id, env.unwrapped, CONTRACT)
    return env


def _check_contract(env_id: str, thing: Any, names: Sequence[str]) -> None:
    if any(not hasattr(thing, name) for name in names):
        lacking = [name for name in CONTRACT if not hasattr(thing, name)]
        raise EnvironmentFault(
            f"env.id '{env_id}' lacks {', '.join(lacking)}; what an environment must offer is in the README, under "
            f"Environments. Without {' and '.join(_MEANT)} it would be adapted instead"
        )


def _means_contract(thing: Any) -> bool:
    return any(hasattr(thing, name) for name in _MEANT)


def _adapt(found: Found, kwargs: dict[str, Any]) -> Any:
    from jepawm.rollout.adapter import AdaptedEnv

    options = AdapterOptions.of(kwargs)
    own = _own_kwargs(found, kwargs)
    return AdaptedEnv(found.env_id, lambda: found.make(**own), image_size=kwargs["image_size"], options=options)


def _taken_kwargs(found: Found, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments but those that are the adapter's alone: some environments have a `success_distance` themselves."""
    return {key: value for key, value in kwargs.items() if key not in AdapterOptions.NAMES or found.takes(key)}


def _own_kwargs(found: Found, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments that are the environment's own, without the adapter's."""
    own = {key: value for key, value in kwargs.items() if key not in AdapterOptions.NAMES}
    if not found.takes("image_size", by_name=True):
        del own["image_size"]
    if found.takes("render_mode"):
        own["render_mode"] = "rgb_array"
    return own


def _import_module(env_id: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if here in sys.path or "" in sys.path or error.name != name.partition(".")[0]:
            raise EnvironmentFault(f"cannot make env.id '{env_id}': {error}") from error
        # A script's folder is on the path, the folder it is started in is not; `module:Class` means the latter too.
        sys.path.append(here)
        try:
            return importlib.import_module(name)
        except ImportError as again:
            raise EnvironmentFault(
                f"cannot make env.id '{env_id}': {again}; the folder {here} was searched as well"
            ) from again
    except ImportError as error:
        raise EnvironmentFault(f"cannot make env.id '{env_id}': {error}") from error


def _prepare_rendering() -> None:
    from envs.mujoco_rendering import prepare_backend

    prepare_backend()
    # pygame, which draws Gymnasium's classic environments, looks for a screen otherwise, and complains without one.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
