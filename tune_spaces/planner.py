"""Search space of the planner `cem`. A trial plans with a trained world model, so no trial trains."""

from typing import Any

from ray import tune


def planner_space() -> dict[str, Any]:
    """Candidates, iterations and spread of the cross-entropy method (`planner.name = cem`)."""
    return {
        "planner.num_samples": tune.choice([100, 200, 300, 600]),
        "planner.num_elites": tune.choice([10, 20, 30]),
        "planner.num_iterations": tune.choice([5, 10, 20]),
        "planner.init_std": tune.uniform(0.5, 2.0),
    }
