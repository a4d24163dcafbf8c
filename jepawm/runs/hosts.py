"""Environment hosts of a run, and what hosts of any kind do now: counted, and shown while they work."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Protocol

from jepawm.config import RunConfig
from jepawm.console import Console, Rate
from jepawm.rollout import EnvPool
from jepawm.runs.runtime import Runtime


@contextmanager
def environment_hosts(config: RunConfig, runtime: Runtime, console: Console) -> Iterator[EnvPool]:
    """A pool of environment hosts.

    Args:
        config: Environment and scaling.
        runtime: Where the hosts live, and what counts them.
        console: Shows what they do, and what the driver plans for them.
    """
    with ExitStack() as stack:
        pool = stack.enter_context(runtime.env_pool(config.env, config.scaling))
        stack.enter_context(runtime.usage.holding(runtime.share("environment hosts", config)))
        stack.enter_context(console.role("environments", pool_in_words("environments", pool, runtime)))
        if not config.scaling.num_planner_hosts:
            stack.enter_context(console.role("planners", _driver_in_words(pool, runtime)))
        yield pool


class Pool(Protocol):
    """What both kinds of pools tell of their work."""

    env_steps: int
    plans: int

    @property
    def num_alive(self) -> int:
        """Hosts that have not been given up."""
        ...

    @property
    def restarts(self) -> list[int]:
        """Deaths of each host."""
        ...


def pool_in_words(role: str, pool: Pool, runtime: Runtime) -> Callable[[], str]:
    """What a pool does now, for a person; each look also shows the numbers to what watches the runtime.

    Args:
        role: `environments` or `planners`.
        pool: The hosts.
        runtime: Where they live.
    """
    env_steps, plans = Rate(lambda: pool.env_steps), Rate(lambda: pool.plans)

    def line() -> str:
        alive, hosts, deaths = pool.num_alive, len(pool.restarts), sum(pool.restarts)
        numbers = {"hosts_alive": alive, "host_deaths": deaths, "env_steps_per_s": env_steps.per_s()}
        words = f"{alive} of {hosts} hosts, {numbers['env_steps_per_s']:.0f} env_steps/s"
        if role == "planners":
            numbers["plans_per_s"] = plans.per_s()
            words += f", {numbers['plans_per_s']:.1f} plans/s"
        runtime.show({f"{role}_{name}": value for name, value in numbers.items()})
        return words + (f", {deaths} died" if deaths else "")

    return line


def _driver_in_words(pool: EnvPool, runtime: Runtime) -> Callable[[], str]:
    """What the driver plans for its environment hosts; nothing while they only collect."""
    plans = Rate(lambda: pool.plans)

    def line() -> str:
        rate = plans.per_s()
        if not pool.plans:
            return ""
        runtime.show({"planners_plans_per_s": rate})
        return f"the driver plans, {rate:.1f} plans/s"

    return line
