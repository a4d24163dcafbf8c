"""Makes the environment that a configuration names.

An environment that implements the contract (docs/extend/environment.md) is used as it is; any other Gymnasium
environment goes through `jepawm.rollout.adapter`.
"""

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

# An environment with one of these methods means to implement the contract, and is refused if it lacks a part. Other
# environments use the names `success` and `control_hz` as well, so those two decide nothing.
CONTRACT_MARKERS = ("sample_start_goal", "render_state")


@dataclass(frozen=True)
class EnvFactory:
    """The class or function that an `env.id` names.

    Attributes:
        env_id: The id as the configuration has it.
        entry: The class, or a function that returns an environment.
        registered: Its id in Gymnasium's registry; None for `module:Name`, a class or function of a module.
    """

    env_id: str
    entry: Callable[..., Any]
    registered: str | None

    def make(self, **kwargs: Any) -> Any:
        """Makes an environment without Gymnasium's time limit; the caller decides how long an episode is.

        Raises:
            EnvironmentFault: The environment cannot be made with these arguments.
        """
        import gymnasium

        try:
            if self.registered is None:
                return self.entry(**kwargs)
            return gymnasium.make(self.registered, disable_env_checker=True, max_episode_steps=-1, **kwargs)
        except (gymnasium.error.Error, ImportError, TypeError, ValueError) as error:
            raise EnvironmentFault(f"cannot make env.id '{self.env_id}': {error}") from error

    def takes(self, argument: str, *, by_name: bool = False) -> bool:
        """Whether the class or function takes an argument.

        Args:
            argument: Name of the argument.
            by_name: Whether only a parameter of this name counts, and `**kwargs` does not.
        """
        try:
            parameters = inspect.signature(self.entry).parameters.values()
        except (TypeError, ValueError):
            return not by_name
        return any(
            parameter.name == argument or (not by_name and parameter.kind is inspect.Parameter.VAR_KEYWORD)
            for parameter in parameters
        )


def find_env(env_id: str) -> EnvFactory:
    """Finds the class or function that an id names.

    The module is imported first, because most packages register their ids on import. A registered id is preferred to
    a class or function of the same name.

    Args:
        env_id: `id` or `module:id` with a registered id, or `module:Name` with a class or function.

    Raises:
        EnvironmentFault: The module, the id or the name does not exist.
    """
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    module_name, colon, name = env_id.rpartition(":")
    # The renderer is chosen before the module can import MuJoCo, whose own choice fails without a screen.
    _prepare_rendering()
    module = _import_module(env_id, module_name) if colon else None
    try:
        spec = gymnasium.spec(name)
        if spec.entry_point is None:
            raise EnvironmentFault(f"cannot make env.id '{env_id}': {name} is registered without an entry point")
        entry: Any = spec.entry_point if callable(spec.entry_point) else load_env_creator(spec.entry_point)
        return EnvFactory(env_id, entry, name)
    # A RuntimeError is what MuJoCo raises on import where MUJOCO_GL is not a word it knows.
    except (gymnasium.error.Error, ImportError, AttributeError, ValueError, RuntimeError) as error:
        entry = getattr(module, name, None)
        if callable(entry):
            return EnvFactory(env_id, entry, None)
        hint = ""
        if module is not None and name.isidentifier():
            hint = f"; and the module {module_name} has no class or function '{name}'"
        raise EnvironmentFault(f"cannot make env.id '{env_id}': {error}{hint}") from error


def make_env(config: EnvConfig) -> Any:
    """Makes the environment of a configuration, through the adapter where it does not implement the contract.

    Raises:
        EnvironmentFault: The environment cannot be made, implements only a part of the contract, or cannot be adapted.
    """
    factory = find_env(config.id)
    kwargs = config.make_kwargs()
    env: Any = None
    if inspect.isclass(factory.entry):
        is_native = _means_contract(factory.entry)
        if is_native:
            # The class is checked before an environment is made: making one may fail with a less clear message.
            _check_contract(config.id, factory.entry, METHODS)
    else:
        # Only the environment itself shows what a function returns, so one is made to look at.
        env = factory.make(
            **(_taken_kwargs(factory, kwargs) if factory.takes("image_size") else _own_kwargs(factory, kwargs))
        )
        is_native = _means_contract(env.unwrapped)
        unknown = [key for key in AdapterOptions.NAMES if key in kwargs and not factory.takes(key)]
        if is_native and unknown:
            raise EnvironmentFault(
                f"env.id '{config.id}' does not take {', '.join(unknown)} (env.options); only environments that are "
                "adapted do, this one implements the contract itself"
            )
        if not is_native:
            env.close()
    if not is_native:
        return _adapt(factory, kwargs)
    env = factory.make(**kwargs) if env is None else env
    _check_contract(config.id, env.unwrapped, CONTRACT)
    return env


def _check_contract(env_id: str, thing: Any, names: Sequence[str]) -> None:
    if any(not hasattr(thing, name) for name in names):
        lacking = [name for name in CONTRACT if not hasattr(thing, name)]
        raise EnvironmentFault(
            f"env.id '{env_id}' lacks {', '.join(lacking)}; docs/extend/environment.md says what an environment must "
            f"offer. Without {' and '.join(CONTRACT_MARKERS)} it would be adapted instead"
        )


def _means_contract(thing: Any) -> bool:
    return any(hasattr(thing, name) for name in CONTRACT_MARKERS)


def _adapt(factory: EnvFactory, kwargs: dict[str, Any]) -> Any:
    from jepawm.rollout.adapter import AdaptedEnv

    options = AdapterOptions.of(kwargs)
    own = _own_kwargs(factory, kwargs)
    return AdaptedEnv(factory.env_id, lambda: factory.make(**own), image_size=kwargs["image_size"], options=options)


def _taken_kwargs(factory: EnvFactory, kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments except the adapter's; an adapter option stays where the environment takes one of the same name."""
    return {key: value for key, value in kwargs.items() if key not in AdapterOptions.NAMES or factory.takes(key)}


def _own_kwargs(factory: EnvFactory, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments for an environment that is adapted: its own, and those for pictures where it takes them."""
    own = {key: value for key, value in kwargs.items() if key not in AdapterOptions.NAMES}
    if not factory.takes("image_size", by_name=True):
        del own["image_size"]
    if factory.takes("render_mode"):
        own["render_mode"] = "rgb_array"
    return own


def _import_module(env_id: str, name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        here = os.getcwd()
        if here in sys.path or "" in sys.path or error.name != name.partition(".")[0]:
            raise EnvironmentFault(f"cannot make env.id '{env_id}': {error}") from error
        # Python searches the folder of a script, not the folder in which the script is started. Modules of the latter
        # can be named too.
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
    # pygame draws Gymnasium's classic environments; without this it looks for a screen and fails where there is none.
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
