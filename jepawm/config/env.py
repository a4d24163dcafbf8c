"""The section `env`: the environment that is collected from and planned in."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jepawm.config.checks import positive
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class EnvConfig:
    """The environment that is collected from and planned in."""

    section: ClassVar[str] = "env"

    id: str = "envs:envs/Wall-v1"
    """Gymnasium id, `module:id` (the module is imported first) or `module:Class`; an environment without jepawm's
    contract is adapted. `none`: there is no environment, and held-out episodes alone judge the model."""
    image_size: int = 64
    """Side of the square frames, pixels."""
    goal_marker: bool | None = None
    """Draw the environment's own goal marker into the frames (Push-T recordings have it); None: the environment's
    default."""
    vary: tuple[str, ...] = ()
    """Factors of variation drawn anew for every episode: names such as `agent.colour`, their beginnings such as
    `agent`, or `all`."""
    options: tuple[str, ...] = ()
    """Further arguments of the environment as KEY=VALUE, the value in YAML: `task=reach-v3`, `quality=faithful`,
    `variation={agent.colour: [255, 0, 0]}`. An environment that is adapted knows `success_distance`, `success_numbers`,
    `goal_env_steps`, `action_bound` and `control_hz` as well."""

    python: str | None = None
    """Interpreter of the environment's processes on Ray, for a simulator whose packages conflict with those that are
    installed: `jepawm env python` makes one. It must be at the same path on every node. None: the driver's."""

    def __post_init__(self) -> None:
        positive(self, "image_size")
        self.make_kwargs()

    @property
    def short_name(self) -> str:
        """The id without module and namespace, in lower case: `wall-v1`."""
        return self.id.rsplit("/", 1)[-1].rsplit(":", 1)[-1].lower()

    def make_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `gymnasium.make`.

        Raises:
            ConfigError: An option that is not KEY=VALUE, is not YAML, or says again what has a setting of its own.
        """
        import yaml

        kwargs: dict[str, Any] = {"image_size": self.image_size}
        if self.goal_marker is not None:
            kwargs["goal_marker"] = self.goal_marker
        if self.vary:
            kwargs["vary"] = list(self.vary)
        for option in self.options:
            key, equals, text = option.partition("=")
            if not equals or not key.isidentifier():
                raise ConfigError(f"env.options: expected KEY=VALUE, found {option!r}")
            if key == "render_mode":
                raise ConfigError("env.options: 'render_mode' is chosen here, frames are always wanted; leave it out")
            if key in kwargs or key in ("goal_marker", "vary"):
                raise ConfigError(f"env.options: '{key}' is given twice, or is a setting of its own (env.{key})")
            try:
                kwargs[key] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"env.options: the value of {option!r} is not YAML: {error}") from error
        return kwargs
