"""A study of a few train steps and episodes, as its file holds it."""

from typing import Any

STATISTICS = {"model.encoder": {"name": "compact", "latent_dim": 4, "hidden_dim": 8}, "data.features": "stored"}
SETTINGS: dict[str, Any] = {
    "device": "cpu",
    "tracking.mlflow": False,
    "data": {"num_episodes": 8, "env_steps_per_episode": 20, "held_out_fraction": 0.25},
    "train": {
        "num_train_steps": 4,
        "batch_size": 8,
        "precision": "float32",
        "checkpoint_every": 4,
        "log_every": 1,
        "diagnostics_every": 4,
        "diagnostics_windows": 8,
        "prediction_windows": 4,
    },
    "planner": {"horizon": 2, "num_samples": 6, "num_elites": 2, "num_iterations": 1, "num_iterations_warm": 1},
    "evaluation": {
        "num_episodes": 2,
        "protocols": ["open_loop"],
        "open_loop": {"replan_every": 2, "max_chunks": 3, "success_at": "plan_end"},
        "per_chunk": {"replan_every": 1, "max_chunks": 3, "success_at": "any_env_step"},
        "two_plan": {"replan_every": 2, "max_chunks": 4, "success_at": "plan_end"},
        "mpc": {"replan_every": 1, "max_chunks": 4, "success_at": "episode_end"},
        "num_animations": 0,
        "num_diagnosed_failures": 0,
        "prediction_horizon": 2,
    },
    "model.predictor.hidden_dim": 8,
    "loss.inverse_dynamics": 0.0,
}
STUDY: dict[str, Any] = {
    "name": "toy",
    "seeds": [0, 1],
    "fractions": [0.5, 1.0],
    "settings": SETTINGS,
    "environments": {"wall": {"about": "a dot"}},
    "encoders": {
        "statistics": {
            "settings": {**STATISTICS, "model.encoder.base": {"name": "pixel_statistics", "trainable": False}}
        }
    },
    "measures": {
        "num_probe_frames": 24,
        "num_test_frames": 12,
        "reconstruction_steps": 2,
        "reconstruction_learning_rate": 2e-3,
        "decoder": {"name": "transposed_conv", "depth": 2},
    },
    "transfers": {"other_wall": {"trained_on": "wall", "settings": {"env.id": "envs:envs/WallRandom-v1"}}},
}
