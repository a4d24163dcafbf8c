"""What a run uses: hours of processes, CPUs and GPUs by role, what they cost, and when the limit is reached.

Counted is what the run's own processes hold, from their start to their end: an idle environment host counts, a node on
which nothing of the run is placed does not. A cloud bills nodes, so a bill is higher where nodes are partly used.
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jepawm.config.tracking import TrackingConfig
from jepawm.errors import BudgetError, DataError
from jepawm.runs.parts import PartsFile, read_parts

USAGE_FILE = "usage.json"
TRAINING_WORKERS, THIS_PROCESS = "training workers", "this process"


@dataclass(frozen=True)
class Share:
    """What one role of a run holds.

    Attributes:
        role: Such as `training workers`.
        processes: How many.
        cpus: Of each process.
        gpus: Of each process; may be less than 1.
    """

    role: str
    processes: int
    cpus: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Hours:
    """Hours of one role.

    Attributes:
        process: Of its processes, summed.
        cpu: Of the CPUs that they hold.
        gpu: Of the GPUs that they hold.
    """

    process: float = 0.0
    cpu: float = 0.0
    gpu: float = 0.0

    def plus(self, other: "Hours", factor: float = 1.0) -> "Hours":
        """The sum with a multiple of others."""
        return Hours(
            self.process + factor * other.process, self.cpu + factor * other.cpu, self.gpu + factor * other.gpu
        )


@dataclass(frozen=True)
class Usage:
    """Hours of each role of a run."""

    roles: Mapping[str, Hours] = field(default_factory=dict)

    @property
    def total(self) -> Hours:
        """Over all roles."""
        summed = Hours()
        for hours in self.roles.values():
            summed = summed.plus(hours)
        return summed

    @property
    def limited(self) -> tuple[float, str]:
        """What `max_gpu_hours` limits, and its name: GPU-hours, or where no GPU is used, hours of what trains."""
        if self.total.gpu > 0:
            return self.total.gpu, "GPU-hours"
        trains = (self.roles[role].process for role in (TRAINING_WORKERS, THIS_PROCESS) if role in self.roles)
        return sum(trains), "worker-hours (no GPU is used)"

    def plus(self, other: "Usage", factor: float = 1.0) -> "Usage":
        """The sum with a multiple of another usage, role by role."""
        roles = dict.fromkeys([*self.roles, *other.roles])
        return Usage(
            {role: self.roles.get(role, Hours()).plus(other.roles.get(role, Hours()), factor) for role in roles}
        )

    def since(self, before: "Usage") -> "Usage":
        """What was added to an earlier usage; roles without any are left out."""
        added = self.plus(before, -1.0)
        return Usage({role: hours for role, hours in added.roles.items() if hours.process > 1e-9})

    def cost(self, tracking: TrackingConfig) -> float | None:
        """Price of the hours; None where no price is configured."""
        if tracking.gpu_hour_price is None and tracking.cpu_hour_price is None:
            return None
        total = self.total
        return total.gpu * (tracking.gpu_hour_price or 0.0) + total.cpu * (tracking.cpu_hour_price or 0.0)

    def numbers(self, tracking: TrackingConfig) -> dict[str, float]:
        """Hours over all roles, and their cost where there is a price."""
        numbers = {"gpu_hours": self.total.gpu, "cpu_hours": self.total.cpu}
        cost = self.cost(tracking)
        return numbers if cost is None else numbers | {"cost": cost}

    def to_dict(self) -> dict[str, dict[str, float]]:
        """Plain data."""
        return {
            role: {"process_hours": each.process, "cpu_hours": each.cpu, "gpu_hours": each.gpu}
            for role, each in self.roles.items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Mapping[str, Any]]) -> "Usage":
        """What `to_dict` gave."""
        return cls(
            {
                role: Hours(float(each["process_hours"]), float(each["cpu_hours"]), float(each["gpu_hours"]))
                for role, each in data.items()
            }
        )


class UsageMeter:
    """Counts the hours of this process's roles while they are held; threads may share it.

    Args:
        clock: Seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._ended = Usage()
        self._held: dict[int, tuple[Share, float]] = {}
        self._next = 0

    @contextmanager
    def holding(self, share: Share | None) -> Iterator[Callable[[], None]]:
        """Counts a share while the context lasts; None: nothing.

        Yields:
            Lets the count begin again at zero, where it turns out that nothing was held yet.
        """
        if share is None:
            yield lambda: None
            return
        with self._lock:
            number, self._next = self._next, self._next + 1
            self._held[number] = share, self._clock()

        def begin_again() -> None:
            with self._lock:
                self._held[number] = share, self._clock()

        try:
            yield begin_again
        finally:
            with self._lock:
                _, began = self._held.pop(number)
                self._ended = self._ended.plus(_usage_of(share, self._clock() - began))

    def total(self) -> Usage:
        """Hours so far; shares that are held are included."""
        with self._lock:
            now, total = self._clock(), self._ended
            for share, began in self._held.values():
                total = total.plus(_usage_of(share, now - began))
            return total

    def held(self) -> list[Share]:
        """What is held now."""
        with self._lock:
            return [share for share, _ in self._held.values()]


def _usage_of(share: Share, seconds: float) -> Usage:
    hours = share.processes * seconds / 3600
    return Usage({share.role: Hours(hours, hours * share.cpus, hours * share.gpus)})


class RunUsage:
    """Hours of a run over all the processes that worked on it, and its limit.

    Args:
        run_dir: The run; `usage.json` there has one part per process.
        meter: Counts for this process. What it counted before belongs to other runs.
        max_gpu_hours: The limit; None: there is none. See `Usage.limited`.

    Raises:
        DataError: The file of an earlier part is damaged.
    """

    def __init__(self, run_dir: str, meter: UsageMeter, max_gpu_hours: float | None) -> None:
        self.max_gpu_hours = max_gpu_hours
        self._meter, self._before = meter, meter.total()
        self._file = PartsFile(Path(run_dir, USAGE_FILE), "usage", lambda: self._own().to_dict())
        self._earlier = _sum(self._file.earlier, self._file.path)

    def total(self) -> Usage:
        """Hours of all parts."""
        return self._earlier.plus(self._own())

    def _own(self) -> Usage:
        return self._meter.total().since(self._before)

    def spent(self) -> bool:
        """Whether the limit is reached."""
        return self.max_gpu_hours is not None and self.total().limited[0] >= self.max_gpu_hours

    def check(self, goes_on: Callable[[], str]) -> None:
        """Ends a run whose limit is reached.

        Args:
            goes_on: Returns how the run is continued.

        Raises:
            BudgetError: It is reached.
        """
        if self.spent():
            hours, what = self.total().limited
            raise BudgetError(
                f"the run has used {hours:.4g} {what}, and --max-gpu-hours is {self.max_gpu_hours:g}; with a larger "
                f"one, {goes_on()}"
            )

    def save(self) -> None:
        """Writes the hours of all parts, so that a kill loses none of them."""
        self._file.save()

    def save_now_and_then(self) -> None:
        """`save`, at most once a second."""
        self._file.save_now_and_then()


def earlier_usage(run_dir: str) -> Usage | None:
    """What `usage.json` of a run says; None where there is none.

    Raises:
        DataError: It is damaged.
    """
    path = Path(run_dir, USAGE_FILE)
    return _sum(read_parts(path, "usage"), path) if path.is_file() else None


def _sum(parts: list[dict[str, Any]], path: Path) -> Usage:
    try:
        total = Usage()
        for part in parts:
            total = total.plus(Usage.from_dict(part))
        return total
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: damaged usage ({error!r}); delete the file") from error


def usage_lines(usage: Usage, tracking: TrackingConfig) -> list[str]:
    """Hours and cost of a run, for a person to read."""
    total = usage.total
    by_role = ", ".join(
        f"{role} {each.process:.3g}" + (f" ({each.gpu:.3g} of GPUs)" if each.gpu else "")
        for role, each in usage.roles.items()
    )
    lines = [f"used        {total.gpu:.3g} GPU-hours, {total.cpu:.3g} CPU-hours; process-hours: {by_role}"]
    cost = usage.cost(tracking)
    if cost is not None:
        prices = (("GPU", tracking.gpu_hour_price), ("CPU", tracking.cpu_hour_price))
        told = " and ".join(f"{price:g} per {what}-hour" for what, price in prices if price is not None)
        amount = f"{cost:.2f}" if cost >= 1 else f"{cost:.2g}"
        lines.append(f"cost        about {amount} {tracking.currency} at {told}; idle parts of nodes are not counted")
    return lines


@contextmanager
def usage_shown(
    meter: UsageMeter, driver: Share | None, tracking: TrackingConfig, say: Callable[[str], None]
) -> Iterator[None]:
    """Counts what a command other than `jepawm train` holds, and says hours and cost when it has done its work.

    Args:
        meter: Counts for this process.
        driver: What the command's own process holds; None: nothing that another role has not.
        tracking: Prices.
        say: Told a line.
    """
    before = meter.total()
    with meter.holding(driver):
        yield
    for line in usage_lines(meter.total().since(before), tracking):
        say(line)
