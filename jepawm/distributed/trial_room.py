"""How many trials of a sweep or a study the cluster has room for, and what one of them claims."""

from collections.abc import Callable

from jepawm.errors import ConfigError
from jepawm.runs.placement import Cluster
from jepawm.tuning.resources import OF_A_SWEEP, TrialClaim, capacity_problem, check_fits, fitting_trials


def gpus_of_trial(device: str, stated: float | None, cluster: Cluster, *, key: str) -> float:
    """GPUs that a trial's own process claims.

    Args:
        device: Of the runs.
        stated: What the settings say; None: 1 where the device is cuda, or auto and there are any.
        cluster: What runs and what can be started.
        key: Of the setting, for the error.

    Raises:
        ConfigError: It is not known whether there are GPUs.
    """
    if stated is not None:
        return stated
    there = any(kind.gpus for kind in cluster.types())
    if device == "auto" and not there and cluster.startable is None:
        raise ConfigError(
            f"no node with GPUs runs, and what the autoscaler can start is not known; state {key}: 0 to compute on "
            "CPUs, 1 to wait for nodes with GPUs"
        )
    return float(device.startswith("cuda") or (device == "auto" and there))


def trials_at_once(
    needed: TrialClaim,
    wanted: int | None,
    cluster: Cluster,
    most: int,
    say: Callable[[str], None],
    *,
    settings: str = OF_A_SWEEP,
) -> int:
    """Trials at once, on the nodes that run and those that can be started.

    Where it is not known what can be started, as many as are asked for.

    Args:
        needed: By one trial.
        wanted: Trials at once that are asked for; None: as many as fit.
        cluster: What runs and what can be started.
        most: Trials in all.
        say: Told where the cluster has to grow first.
        settings: Named in the error.

    Raises:
        ConfigError: Not even one trial fits, or fewer than are wanted.
    """
    started = [kind.resources for kind in cluster.startable or () for _ in range(kind.count)][: cluster.most_started]
    nodes = [*(kind.resources for kind in cluster.running for _ in range(kind.count)), *started]
    if wanted is None or cluster.startable is not None:
        return check_fits(needed, nodes, wanted, most, settings=settings)
    wanted = min(wanted, most)
    fitting = fitting_trials(needed, nodes, wanted)
    problem = capacity_problem(needed, nodes, fitting, wanted, settings=settings)
    if problem is not None:
        say(f"   the cluster is too small now, the trials wait for it to grow: {problem}")
    return wanted
