"""The kind `function`: a search of one's own that is a function."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.planner.sampling import IteratedConfig
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class FunctionPlannerConfig(IteratedConfig):
    """A search that is a function of one's own, without a class of settings."""

    implementation: ClassVar[str] = "jepawm.planning.function:FunctionPlanner"

    name: str = "function"
    function: str = ""
    """`module:function`. It takes the unroll, the objective and the search space, and as keywords `config`,
    `generators` and `start_BHd`; it returns the plans `[B,H,d]`, see `jepawm.planning.function`."""

    def check_function(self) -> None:
        """Refuses a name that no function can have; not when it is made, for a flag may still come.

        Raises:
            ConfigError: It is not written `module:function`.
        """
        module, colon, attribute = self.function.partition(":")
        if not (module and colon and attribute):
            raise ConfigError(f"planner.function must be written module:function, found '{self.function}'")
