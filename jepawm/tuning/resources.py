"""How many trials a machine or cluster holds at once, added up before any begins, so that none waits for ever.

A trial without further workers is one bundle of CPUs and GPUs, which it holds from its start to its end: trials wait
for each other's end, never for each other. A trial with training workers is driven by a process that claims nothing;
its workers are placed all at once or not at all, so a trial holds workers only where it can go on. Where one trial fits
the empty cluster, at least one always goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jepawm.errors import ConfigError

Resources = Mapping[str, float]

OF_A_SWEEP = "tune.max_concurrent, tune.cpus_per_trial, tune.gpus_per_trial or scaling.num_workers"
OF_A_STUDY = "trials.max_concurrent, trials.cpus or trials.gpus"
"""Settings that say how much room trials need."""


@dataclass(frozen=True)
class TrialClaim:
    """What one trial claims of Ray's logical resources.

    Attributes:
        bundles: What each of its processes claims on one node; what claims nothing is left out.
        what: Each bundle in words.
    """

    bundles: tuple[Resources, ...]
    what: tuple[str, ...]

    @classmethod
    def of_process(cls, cpus: float, gpus: float) -> "TrialClaim":
        """A trial that is one process."""
        return cls((_claim(cpus, gpus),), ("the trial",))

    @classmethod
    def of_workers(cls, num_workers: int, worker: Resources) -> "TrialClaim":
        """A trial that trains with several workers; its driver claims nothing."""
        return cls(tuple(dict(worker) for _ in range(num_workers)), ("a training worker",) * num_workers)

    @property
    def total(self) -> dict[str, float]:
        """Its processes together."""
        total: dict[str, float] = {}
        for bundle in self.bundles:
            for name, amount in bundle.items():
                total[name] = total.get(name, 0.0) + amount
        return total

    def sums(self) -> str:
        """The sums in words, e.g. `2 x a training worker (0.5 CPU, 1 GPU) = 1 CPU, 2 GPU`."""
        kinds: dict[tuple[str, str], int] = {}
        for bundle, what in zip(self.bundles, self.what, strict=True):
            kind = (what, in_words(bundle))
            kinds[kind] = kinds.get(kind, 0) + 1
        parts = [f"{count} x {what} ({claim})" for (what, claim), count in kinds.items()]
        return f"{' + '.join(parts)} = {in_words(self.total)}"


def fitting_trials(claim: TrialClaim, nodes: Sequence[Resources], most: int) -> int:
    """Trials that nodes hold at once, at most `most`: each process goes to the first node that has room for it.

    Args:
        claim: Of one trial.
        nodes: Logical resources of each node.
        most: Where counting ends.
    """
    free = [dict(node) for node in nodes]
    for count in range(most):
        for bundle in claim.bundles:
            place = next((node for node in free if _fits(bundle, node)), None)
            if place is None:
                return count
            for name, amount in bundle.items():
                place[name] -= amount
    return most


def check_fits(
    claim: TrialClaim, nodes: Sequence[Resources], wanted: int | None, most: int, *, settings: str = OF_A_SWEEP
) -> int:
    """The number of trials at once.

    Args:
        claim: Of one trial.
        nodes: Logical resources of each node.
        wanted: `tune.max_concurrent`.
        most: Trials in all.
        settings: Named in the error.

    Raises:
        ConfigError: Not even one trial fits, or fewer than are wanted; the sums are shown.
    """
    fitting = fitting_trials(claim, nodes, most if wanted is None else min(wanted, most))
    problem = capacity_problem(claim, nodes, fitting, 1 if wanted is None else min(wanted, most), settings=settings)
    if problem is not None:
        raise ConfigError(problem)
    return fitting


def capacity_problem(
    claim: TrialClaim, nodes: Sequence[Resources], fitting: int, needed: int, *, settings: str = OF_A_SWEEP
) -> str | None:
    """Says, with the sums, what is missing for a number of trials; None where they fit."""
    if fitting >= needed:
        return None
    there = TrialClaim(tuple(nodes), ("node",) * len(nodes))
    largest = ", ".join(f"node {number}: {in_words(node)}" for number, node in enumerate(nodes, start=1))
    many = f"{needed} trials" if needed > 1 else "one trial"
    return (
        f"{many} at once do not fit: each needs {claim.sums()}; there are {in_words(there.total)} ({largest}), room "
        f"for {fitting}. Lower {settings}"
    )


def in_words(resources: Resources) -> str:
    """CPUs and GPUs, e.g. `2 CPU, 1 GPU`."""
    parts = [f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if resources.get(name)]
    return ", ".join(parts) or "nothing"


def _claim(cpus: float, gpus: float) -> dict[str, float]:
    return {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}


def _fits(bundle: Resources, node: Resources) -> bool:
    # Shares of a GPU such as 0.1 do not add up exactly.
    return all(node.get(name, 0.0) >= amount - 1e-9 for name, amount in bundle.items())
