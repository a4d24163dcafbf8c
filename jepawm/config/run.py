"""A run: every section, and the checks that span sections."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jepawm.config.data import DataConfig
from jepawm.config.env import EnvConfig
from jepawm.config.evaluation import EvaluationConfig, EvaluationPlan, ProtocolConfig
from jepawm.config.loss import LossConfig, UnrollLossConfig
from jepawm.config.model import ModelConfig
from jepawm.config.objective import ObjectiveConfig
from jepawm.config.optim import OptimConfig
from jepawm.config.planner import FunctionPlannerConfig, PlannerConfig
from jepawm.config.scaling import ScalingConfig
from jepawm.config.subgoals import SubgoalConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.training import TrainConfig, TrainingPlan
from jepawm.config.yaml_io import to_dict
from jepawm.errors import ConfigError

_POSTPONED = ContextVar("postponed", default=False)


@contextmanager
def checks_postponed() -> Iterator[None]:
    """Runs that are made inside are not checked: settings are still to come that may mend what does not go together."""
    token = _POSTPONED.set(True)
    try:
        yield
    finally:
        _POSTPONED.reset(token)


@dataclass(frozen=True)
class RunConfig:
    """One run: episodes, a trained world model, an evaluation and a report."""

    section: ClassVar[str] = "run"

    seed: int = 0
    """Seed of everything random in collecting and training."""
    device: str = "auto"
    """`auto` (cuda, mps, cpu in this order) or a torch device. On a cluster it is judged where the work is done."""
    local: bool = False
    """Run everything in this process, without importing Ray."""
    run_dir: str | None = None
    """Directory of the run; None: a new one under `$JEPAWM_HOME` (else ./runs)."""
    name: str | None = None
    """Name of the run, which begins the name of its directory; None: the recipe's, or the environment's where the
    recipe is for another one."""
    resume: Literal["auto", "never"] = "auto"
    """`auto`: continue the newest unfinished run of the same configuration (or the one in `run_dir`)."""
    max_gpu_hours: float | None = None
    """GPU-hours that the run may use, over all its processes and resumes; then it ends at a checkpoint. Where the run
    uses no GPU, hours of its training workers. None: no limit."""
    env: EnvConfig = field(default_factory=EnvConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    subgoals: SubgoalConfig = field(default_factory=SubgoalConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if _POSTPONED.get():
            return
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device must be auto, cpu, mps, cuda or cuda:N, found '{self.device}'")
        if self.max_gpu_hours is not None and not self.max_gpu_hours > 0:
            raise ConfigError(f"max_gpu_hours must be above 0, found {self.max_gpu_hours}")
        source = self.evaluation.goal_source
        if self.env.id == "none" and (self.data.source == "collect" or source != "sampler"):
            raise ConfigError(
                "env.id is 'none': episodes cannot be collected (data.source) and no goal can be reached "
                f"(evaluation.goal_source '{source}' plans in an environment); set env.id, or data.source and sampler"
            )
        if self.data.source == "collect" and not self.data.num_episodes:
            raise ConfigError(
                f"data.num_episodes must be at least 1 where episodes are collected, found {self.data.num_episodes}"
            )
        needed = self.data.frameskip * (self.data.num_frames_in_window - 1)
        if self.data.source == "collect" and self.data.env_steps_per_episode < needed:
            raise ConfigError(
                f"data.env_steps_per_episode {self.data.env_steps_per_episode} is shorter than one training window: "
                f"{self.data.num_frames_in_window} frames, {self.data.frameskip} env_steps apart, need {needed}; raise "
                "it, or lower data.frameskip or data.num_frames_in_window"
            )
        if self.data.source != "collect" and not self.data.path:
            raise ConfigError(f"data.path is needed when data.source is '{self.data.source}': pass --data.path PATH")
        self.train.windows_at_once(self.scaling.num_workers)
        self.train.windows_at_once(self.scaling.fewest_workers)
        self._check_loss()
        encoder = self.model.encoder
        stored = self.data.features == "stored"
        if (stored and encoder.trainable and not encoder.reads_features) or (encoder.reads_features and not stored):
            raise ConfigError(
                "data.features 'stored' is for frozen encoders (model.encoder.trainable off), and needed by "
                f"model.encoder.name 'compact'; found '{self.data.features}' with '{encoder.name}'"
            )
        if self.objective.proprio_dims and self.model.proprio.update == "predict":
            raise ConfigError(
                "objective.proprio_dims names numbers of proprio; the latent holds those only with "
                f"model.proprio.update fit_linear or integrate_pose, found '{self.model.proprio.update}' (encoding "
                f"'{self.model.proprio.encoding}')"
            )
        if self.local and self.data.loader == "stream":
            raise ConfigError("data.loader 'stream' is Ray Data and cannot run with --local; use 'shards' or 'cache'")
        if self.local and self.env.python is not None:
            raise ConfigError(
                f"env.python is {self.env.python}, and with --local the environment runs in this process; leave one of "
                "them out"
            )
        if self.local and self.scaling.num_workers > 1:
            raise ConfigError(
                f"--local trains in this one process; scaling.num_workers must be 1, found {self.scaling.num_workers}"
            )
        if self.local and self.scaling.num_planner_hosts:
            raise ConfigError(
                "--local plans in this one process; scaling.num_planner_hosts must be 0, found "
                f"{self.scaling.num_planner_hosts}; a model that was trained with --local is evaluated on Ray with "
                "--no-local"
            )
        if isinstance(self.planner, FunctionPlannerConfig):
            self.planner.check_function()
        for name in self.evaluation.protocols:
            protocol: ProtocolConfig = getattr(self.evaluation, name)
            protocol.check_horizon(name, self.planner.horizon)
        every = self.evaluation.every_num_train_steps
        if every is not None and every % self.train.checkpoint_every:
            raise ConfigError(
                f"evaluation.every_num_train_steps ({every}) must be a multiple of train.checkpoint_every "
                f"({self.train.checkpoint_every}), for checkpoints are what is evaluated"
            )
        uneven = [each for each in self.evaluation.goal_offsets_env_steps if each % self.data.frameskip]
        if uneven:
            raise ConfigError(
                f"evaluation.goal_offsets_env_steps must be multiples of data.frameskip ({self.data.frameskip}), found "
                f"{', '.join(map(str, uneven))}"
            )

    def _check_loss(self) -> None:
        """What the loss asks of encoder, windows and batch."""
        loss, encoder, frames = self.loss, self.model.encoder, self.data.num_frames_in_window
        if encoder.trainable and not (loss.variance or loss.sigreg or loss.inverse_dynamics or loss.detaches_targets):
            raise ConfigError(
                "every anti-collapse term is off (loss.variance, loss.sigreg and loss.inverse_dynamics are all 0): an "
                "encoder that trains collapses to a constant without one; give at least one a weight, or freeze it "
                "(model.encoder.trainable)"
            )
        if frames < loss.window_frames:
            raise ConfigError(
                f"data.num_frames_in_window must be at least {loss.window_frames} with loss.name '{loss.name}' "
                f"(loss.rollout_steps + 1), found {frames}"
            )
        if loss.straightening and frames < 3:
            raise ConfigError(
                f"loss.straightening compares two successive differences, which takes data.num_frames_in_window of at "
                f"least 3, found {frames}"
            )
        longest, window = self.model.predictor.longest_window, frames - 1
        if not isinstance(loss, UnrollLossConfig) and longest is not None and longest < window:
            raise ConfigError(
                f"data.num_frames_in_window {window + 1} shows the predictor {window} frames at once, its learned "
                f"position table holds {longest}; raise model.predictor.num_positions"
            )
        statistics = encoder.trainable and (loss.has_batch_statistics or encoder.projector_dim is not None)
        if self.train.micro_batches > 1 and (statistics or getattr(self.model.predictor, "projector_dim", None)):
            raise ConfigError(
                "train.micro_batches must be 1 here: variance, covariance, SIGReg and the batch normalisation of a "
                "projector are statistics of the whole batch, which its parts cannot compute; save memory with "
                "train.activation_checkpointing, or use more workers"
            )

    def training_identity(self) -> dict[str, Any]:
        """The part of the configuration that fixes a trained model; runs that differ here are different runs."""
        full = to_dict(self)
        # They permit, keep or show a training and do not change the model.
        del full["data"]["allow_actions_out_of_bounds"]
        del full["env"]["python"]
        for name in ("checkpoint_every", "num_checkpoints_kept", "best_metric", "best_mode", "log_every"):
            del full["train"][name]
        return {key: full[key] for key in ("seed", "env", "data", "model", "loss", "optim", "train")}

    def training_plan(self) -> TrainingPlan:
        """The slice that training takes."""
        return TrainingPlan(
            seed=self.seed,
            device=self.device,
            image_size=self.env.image_size,
            data=self.data,
            model=self.model,
            loss=self.loss,
            optim=self.optim,
            train=self.train,
            run=to_dict(self),
        )

    def evaluation_plan(self) -> EvaluationPlan:
        """The slice that evaluation takes."""
        return EvaluationPlan(
            seed=self.seed,
            env=self.env,
            data=self.data,
            planner=self.planner,
            objective=self.objective,
            subgoals=self.subgoals,
            evaluation=self.evaluation,
            diagnostics_windows=self.train.diagnostics_windows,
            run=to_dict(self),
            episodes_per_group=self.scaling.largest_group,
        )
