"""Published planners under one word: every setting of the search, so that nothing of another planner shows through.

The published searches begin each plan afresh, so a replan has as many iterations as a first plan; they search every
environment step's action, without a floor under the spread.
"""

from typing import Any


def _cem(horizon: int, num_elites: int, num_iterations: int, **changes: Any) -> dict[str, Any]:
    return {
        "name": "cem",
        "horizon": horizon,
        "init_std": 1.0,
        "hold_actions": False,
        "action_limits": None,
        "num_samples": 300,
        "num_elites": num_elites,
        "num_iterations": num_iterations,
        "num_iterations_warm": num_iterations,
        "init_std_warm": None,
        "min_std": 0.0,
        "max_std": None,
        "keep_mean": True,
        "unbiased_std": True,
        "mean_momentum": 0.0,
        "std_momentum": 0.0,
        "execute": "mean",
        **changes,
    }


def _gradient(
    horizon: int, num_iterations: int, optimizer: str, learning_rate: float, **changes: Any
) -> dict[str, Any]:
    return {
        "name": "gradient",
        "horizon": horizon,
        "init_std": 1.0,
        "hold_actions": False,
        "action_limits": None,
        "num_samples": 1,
        "num_iterations": num_iterations,
        "num_iterations_warm": num_iterations,
        "optimizer": optimizer,
        "learning_rate": learning_rate,
        "optimizer_options": (),
        "max_gradient_norm": None,
        "keep_mean": False,
        "update_noise": 0.003,
        "execute": "last",
        **changes,
    }


PRESETS: dict[str, dict[str, Any]] = {
    # DINO-WM, arXiv 2411.04983: Push-T; Wall and PointMaze have 10 iterations.
    "dino_wm": _cem(5, 30, 30),
    "dino_wm_gd": _gradient(5, 1000, "SGD", 1.0),
    # JEPA-WMs, arXiv 2512.24497: Push-T, Wall and PointMaze; then the other environments and searches.
    "jepa_wms": _cem(6, 10, 30),
    "jepa_wms_metaworld": _cem(6, 10, 15),
    "jepa_wms_droid": _cem(3, 10, 15, init_std=0.1, action_limits=(0.1,) * 6 + (0.75,)),
    "jepa_wms_robocasa": _cem(3, 10, 15, init_std=0.1, action_limits=(0.05,) * 3 + (0.01,) * 3 + (1.0,)),
    # The published Adam never takes a step of Adam: its numbers are those of plain gradient descent.
    "jepa_wms_gd": _gradient(6, 500, "SGD", 1.0),
    # The published NGOpt is DiagonalCMA at every published size.
    "jepa_wms_nevergrad": {
        "name": "nevergrad",
        "horizon": 6,
        "init_std": 1.0,
        "hold_actions": False,
        "action_limits": None,
        "optimizer": "DiagonalCMA",
        "num_samples": 300,
        "num_iterations": 30,
        "num_iterations_warm": 30,
        "keep_mean": False,
        "execute": "recommendation",
    },
    # Closing the train-test gap of gradient-based planning, arXiv 2512.09929: open loop.
    "train_test_gap": _gradient(5, 300, "Adam", 0.3),
    # Temporal straightening, arXiv 2603.12231: starts at the data's mean action.
    "straightening": _gradient(5, 100, "SGD", 0.1, keep_mean=True, update_noise=0.0),
}
