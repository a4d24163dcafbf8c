"""Numbers of a run in Ray's metrics, for Prometheus and Grafana: `docs/grafana/jepawm.json` shows them."""

from collections.abc import Mapping
from typing import Any

# Ray puts `ray_` before the names. What the driver shows, and what each host shows of itself.
DRIVER_GAUGES = {
    "train_step": "Updates made.",
    "train_workers": "Training workers.",
    "train_steps_per_s": "Updates per second.",
    "train_windows_per_s": "Windows trained on per second, over all workers.",
    "train_loss": "Training loss.",
    "data_frames_per_s": "Frames that training reads per second.",
    "data_wait_fraction": "Share of its time that training waits for windows.",
    "environments_hosts_alive": "Environment hosts of the driver that are not given up.",
    "environments_host_deaths": "Deaths of these environment hosts.",
    "environments_env_steps_per_s": "Environment steps per second in these environment hosts.",
    "planners_hosts_alive": "Planner hosts that are not given up.",
    "planners_host_deaths": "Deaths of planner hosts.",
    "planners_env_steps_per_s": "Environment steps per second that planner hosts play.",
    "planners_plans_per_s": "Plans per second.",
    "gpu_hours": "GPU-hours that the run has used.",
    "cpu_hours": "CPU-hours that the run has used.",
    "cost": "What these hours cost, in the currency of the configuration.",
}
HOST_COUNTERS = {
    "env_host_env_steps": "Environment steps in one environment host since it started.",
    "env_host_busy_s": "Seconds that one environment host has worked since it started.",
    "planner_host_busy_s": "Seconds that one planner host has worked since it started.",
}


class RunGauges:
    """The gauges of a driver; each is made when it is first shown."""

    def __init__(self) -> None:
        self._gauges: dict[str, Any] = {}

    def show(self, numbers: Mapping[str, float]) -> None:
        """Sets gauges.

        Args:
            numbers: By the names in `DRIVER_GAUGES`.

        Raises:
            KeyError: Another name.
        """
        from ray.util.metrics import Gauge

        for name, value in numbers.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"jepawm_{name}", DRIVER_GAUGES[name])
            self._gauges[name].set(float(value))


def host_counter(name: str) -> Any:
    """A counter of a host's own process; its `inc(amount)` adds to it.

    Args:
        name: One of `HOST_COUNTERS`.
    """
    from ray.util.metrics import Counter

    return Counter(f"jepawm_{name}", HOST_COUNTERS[name])
