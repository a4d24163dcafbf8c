"""Trials are added up before launch, and no sweep that is let through can wait for itself."""

import random

import pytest

from jepawm.errors import ConfigError
from jepawm.tuning.resources import TrialClaim, check_fits, fitting_trials


def test_the_sums_are_shown_where_one_trial_does_not_fit():
    claim = TrialClaim.of_workers(3, {"CPU": 0.5, "GPU": 1.0})
    with pytest.raises(ConfigError) as refused:
        check_fits(claim, [{"CPU": 8.0, "GPU": 2.0}], None, 16)
    text = str(refused.value)
    assert "3 x a training worker (0.5 CPU, 1 GPU) = 1.5 CPU, 3 GPU" in text
    assert "there are 8 CPU, 2 GPU" in text
    assert "room for 0" in text


def test_as_many_trials_run_at_once_as_nodes_hold():
    two_cpus = TrialClaim.of_process(2, 0)
    assert check_fits(two_cpus, [{"CPU": 3.0}, {"CPU": 5.0}], None, 16) == 3
    assert check_fits(two_cpus, [{"CPU": 3.0}, {"CPU": 5.0}], 2, 16) == 2
    assert check_fits(two_cpus, [{"CPU": 3.0}, {"CPU": 5.0}], None, 1) == 1
    with pytest.raises(ConfigError, match="4 trials at once do not fit"):
        check_fits(two_cpus, [{"CPU": 3.0}, {"CPU": 5.0}], 4, 16)
    assert fitting_trials(TrialClaim.of_process(1, 0.1), [{"CPU": 64.0, "GPU": 1.0}], 64) == 10


@pytest.mark.parametrize("seed", range(20))
def test_no_sweep_waits_for_itself(seed):
    """Random nodes, claims and placements: whatever order processes are placed in, all trials come to their end.

    Ray's rules: the processes of a trial's workers are placed all at once or not at all, anywhere they fit; a trial
    that is one process likewise. A driver of workers claims nothing. A trial gives everything back at its end.
    """
    draw = random.Random(seed)
    nodes = [{"CPU": float(draw.randint(1, 16)), "GPU": float(draw.randint(0, 4))} for _ in range(draw.randint(1, 4))]
    if draw.random() < 0.5:
        claim = TrialClaim.of_process(draw.randint(1, 8), draw.choice([0, 0.25, 1]))
    else:
        claim = TrialClaim.of_workers(draw.randint(2, 6), {"CPU": 0.5, **({"GPU": 1.0} if draw.random() < 0.5 else {})})
    try:
        concurrent = check_fits(claim, nodes, None, 16)
    except ConfigError:
        assert fitting_trials(claim, nodes, 1) == 0
        return
    free = [dict(node) for node in nodes]
    waiting, running, done = list(range(16)), {}, 0

    def place() -> list[tuple[int, dict[str, float]]] | None:
        """Any placement that fits, not the one that was counted with; None where there is none."""
        taken: list[tuple[int, dict[str, float]]] = []
        for bundle in claim.bundles:
            fitting = [
                at for at, node in enumerate(free) if all(node.get(k, 0.0) >= v - 1e-9 for k, v in bundle.items())
            ]
            if not fitting:
                give_back(taken)
                return None
            at = draw.choice(fitting)
            for name, amount in bundle.items():
                free[at][name] -= amount
            taken.append((at, dict(bundle)))
        return taken

    def give_back(taken: list[tuple[int, dict[str, float]]]) -> None:
        for at, bundle in taken:
            for name, amount in bundle.items():
                free[at][name] += amount

    while done < 16:
        # A driver that claims nothing begins as soon as it may; its workers come when there is room.
        while waiting and len(running) < concurrent:
            running[waiting.pop(0)] = None
        for trial, taken in list(running.items()):
            if taken is None:
                running[trial] = next((found for found in (place() for _ in range(50)) if found is not None), None)
        placed = [trial for trial, taken in running.items() if taken is not None]
        assert placed, f"{len(running)} trials wait and none goes on: {claim.sums()} on {nodes}"
        over = draw.choice(placed)
        give_back(running.pop(over))
        done += 1
