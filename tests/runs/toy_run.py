"""A run of a few train steps and episodes, for sweeps and improvements in tests."""

from dataclasses import replace

from configs import few_steps

from jepawm.config import DataConfig, RunConfig, TrackingConfig
from jepawm.config.evaluation import EvaluationConfig, ProtocolConfig
from jepawm.config.planner import CEMConfig

TOY = RunConfig(
    local=True,
    device="cpu",
    data=DataConfig(num_episodes=8, env_steps_per_episode=20, held_out_fraction=0.25),
    train=few_steps(6, diagnostics_windows=8, prediction_windows=4),
    planner=CEMConfig(horizon=2, num_samples=6, num_elites=2, num_iterations=1, num_iterations_warm=1),
    evaluation=EvaluationConfig(
        num_episodes=2,
        protocols=("open_loop",),
        open_loop=ProtocolConfig(replan_every=2, max_chunks=3, success_at="plan_end"),
        per_chunk=ProtocolConfig(replan_every=1, max_chunks=3, success_at="any_env_step"),
        two_plan=ProtocolConfig(replan_every=2, max_chunks=4, success_at="plan_end"),
        mpc=ProtocolConfig(replan_every=1, max_chunks=4, success_at="episode_end"),
        num_animations=0,
        num_diagnosed_failures=0,
        prediction_horizon=2,
    ),
    tracking=TrackingConfig(mlflow=False),
)


def toy(**changes) -> RunConfig:
    """The same with changes."""
    return replace(TOY, **changes)
