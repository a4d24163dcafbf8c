"""Gauges in Ray's metrics, and the dashboard that shows them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jepawm.config import RunConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.console import Console
from jepawm.distributed.gauges import DRIVER_GAUGES, HOST_COUNTERS, RunGauges
from jepawm.runs.hosts import environment_hosts, pool_in_words
from jepawm.runs.runtime import LocalRuntime
from jepawm.runs.training_in_words import TrainingInWords
from jepawm.runs.usage import Share, UsageMeter


@pytest.fixture(scope="module")
def dashboard(request: pytest.FixtureRequest) -> Any:
    repo = Path(request.config.rootpath)
    return json.loads((repo / "docs" / "grafana" / "jepawm.json").read_text())


def test_the_dashboard_shows_every_metric_and_no_other(dashboard: Any) -> None:
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    shown = {name for text in expressions for name in re.findall(r"ray_jepawm_(\w+)\{", text)}
    # Ray writes a counter with this ending.
    assert shown == set(DRIVER_GAUGES) | {f"{name}_total" for name in HOST_COUNTERS}
    (variable,) = [each for each in dashboard["templating"]["list"] if each["name"] == "session"]
    assert re.findall(r"ray_jepawm_(\w+)", variable["query"])[0] in DRIVER_GAUGES


def test_the_panels_of_the_dashboard_do_not_overlap(dashboard: Any) -> None:
    cells = [
        (panel["gridPos"]["x"] + dx, panel["gridPos"]["y"] + dy)
        for panel in dashboard["panels"]
        for dx in range(panel["gridPos"]["w"])
        for dy in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


class Seen(LocalRuntime):
    """A runtime that remembers what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[str, float] = {}

    def show(self, numbers: Any) -> None:
        self.numbers.update(numbers)


class Hosts:
    env_steps, plans, restarts, num_alive = 0, 0, [0, 2], 1


def test_a_run_shows_gauges_that_are_known_and_all_of_them() -> None:
    runtime = Seen()
    told = {"train_step": 10, "train/loss": 0.5, "train/windows_per_s": 256.0, "train/data_wait_fraction": 0.25}
    seen = TrainingInWords(RunConfig(), "shards")
    assert (seen.train(), seen.data()) == ("", "")
    seen.see(told)
    assert seen.train() == "1 worker, 2.0 train steps/s"
    frames = 256 * RunConfig().data.num_frames_in_window
    assert seen.data() == f"{frames} frames/s, loader shards; training waits 25 % of its time"
    runtime.show(seen.numbers())
    meter = UsageMeter()
    with meter.holding(Share("driver", 1, 1.0)):
        runtime.show(meter.total().numbers(TrackingConfig(cpu_hour_price=0.1)))
    assert pool_in_words("environments", Hosts(), runtime)() == "1 of 2 hosts, 0 env_steps/s, 2 died"
    assert pool_in_words("planners", Hosts(), runtime)() == "1 of 2 hosts, 0 env_steps/s, 0.0 plans/s, 2 died"
    assert set(runtime.numbers) == set(DRIVER_GAUGES)
    assert runtime.numbers["planners_host_deaths"] == 2


def test_an_unknown_gauge_is_an_error() -> None:
    with pytest.raises(KeyError):
        RunGauges().show({"loss": 1.0})


def test_hosts_are_shown_while_a_bar_is_drawn(wall_env: Any, capsys: pytest.CaptureFixture[str]) -> None:
    runtime, console = Seen(), Console()
    config = RunConfig(env=wall_env)
    with environment_hosts(config, runtime, console) as pool:
        pool.begin(pool.sample_tasks([0, 1], [5, 6]))
        actions = pool.describe().action.dim
        with console.bar("chunks", 1) as advance:
            pool.execute([0, 1], np.zeros((2, 3, 5, actions), np.float32))
            advance(1)
    assert (pool.env_steps, pool.plans) == (30, 2)
    (line,) = capsys.readouterr().out.strip().splitlines()
    words = r"chunks 1/1; environments: 1 of 1 hosts, \d+ env_steps/s; planners: the driver plans, [\d.]+ plans/s"
    assert re.fullmatch(words, line)
    assert runtime.numbers["environments_env_steps_per_s"] > 0
    # This process counts itself; a host in it holds nothing more.
    assert runtime.usage.total().roles == {}


# Started by the test below: a Ray of its own, whose node gives its metrics out on a port.
_SCRIPT = """
import sys, time, urllib.request
from jepawm.distributed.session import prepare_environment
prepare_environment()
import ray
frame = 64
ray.init(address="local", include_dashboard=False, num_cpus=1, object_store_memory=100 * 2**20,
         logging_level="ERROR")
port = ray._private.worker._global_node.metrics_export_port
import numpy as np
from jepawm.config import EnvConfig, RunConfig, ScalingConfig
from jepawm.distributed.env_pool import ray_env_pool
from jepawm.distributed.runtime import RayRuntime
runtime = RayRuntime(ScalingConfig())
with ray_env_pool(EnvConfig(id="envs:envs/Wall-v1", image_size=frame), ScalingConfig(), 1) as pool:
    pool.begin(pool.sample_tasks([0], [1]))
    pool.execute([0], np.zeros((1, 3, 5, 2), np.float32))
    wanted = {"jepawm_train_step", "jepawm_env_host_env_steps_total", "jepawm_env_host_busy_s_total"}
    while wanted:
        runtime.show({"train_step": 7.0})
        try:
            text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10).read().decode()
        except OSError:
            text = ""
        wanted = {name for name in wanted if f"ray_{name}{{" not in text}
        time.sleep(0.5)
print("\\n".join(line for line in text.splitlines() if line.startswith("ray_jepawm")))
"""


@pytest.mark.ray
@pytest.mark.long
def test_ray_gives_the_metrics_out_under_the_names_of_the_dashboard(repo: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(repo)}
    words = [sys.executable, "-c", _SCRIPT]
    done = subprocess.run(words, env=environment, cwd=repo, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    values = dict(re.findall(r"^ray_jepawm_(\w+)\{.*SessionName=.*\} (\S+)$", done.stdout, flags=re.MULTILINE))
    assert float(values["train_step"]) == 7.0
    assert float(values["env_host_env_steps_total"]) == 15.0
    assert float(values["env_host_busy_s_total"]) > 0
