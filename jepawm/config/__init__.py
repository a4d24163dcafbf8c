"""Configuration: frozen dataclasses, defaults < YAML recipe < command line, and one typed error for a wrong key.

Every section of a run is one dataclass here; the docstring under a field is its help text on the command line, and the
same dotted key names it in YAML, in a sweep and in a tracker.
"""

import dataclasses
import os
import re
from dataclasses import dataclass, field
from typing import Any, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.config.model import EncoderConfig, ModelConfig, PredictorConfig, ProprioConfig
from jepawm.errors import ConfigError

__all__ = [
    "DataConfig",
    "EncoderConfig",
    "EnvConfig",
    "EvaluationConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "PlannerConfig",
    "PredictorConfig",
    "ProprioConfig",
    "ProtocolConfig",
    "RunConfig",
    "ScalingConfig",
    "TrackingConfig",
    "TrainConfig",
    "home",
    "to_dict",
]


@dataclass(frozen=True)
class EnvConfig:
    """The environment that is collected from and planned in."""

    id: str = "envs:envs/Wall-v1"
    """Gymnasium id, `module:id` (the module is imported first) or `module:Class`; an environment without jepawm's
    contract is adapted. `none`: there is no environment, and held-out episodes alone judge the model."""
    image_size: int = 64
    """Side of the square frames, pixels."""
    goal_marker: bool | None = None
    """Draw the environment's own goal marker into the frames (Push-T recordings have it); None: the environment's
    default."""
    vary: tuple[str, ...] = ()
    """Factors of variation drawn anew for every episode: names such as `agent.colour`, their beginnings such as
    `agent`, or `all`."""
    options: tuple[str, ...] = ()
    """Further arguments of the environment as KEY=VALUE, the value in YAML: `task=reach-v3`, `quality=faithful`,
    `variation={agent.colour: [255, 0, 0]}`. An environment that is adapted knows `success_distance`, `success_numbers`,
    `goal_env_steps`, `action_bound` and `control_hz` as well."""

    def __post_init__(self) -> None:
        positive(self, "image_size")
        self.make_kwargs()

    def make_kwargs(self) -> dict[str, Any]:
        """Keyword arguments for `gymnasium.make`.

        Raises:
            ConfigError: An option that is not KEY=VALUE, is not YAML, or says again what has a setting of its own.
        """
        import yaml

        kwargs: dict[str, Any] = {"image_size": self.image_size}
        if self.goal_marker is not None:
            kwargs["goal_marker"] = self.goal_marker
        if self.vary:
            kwargs["vary"] = list(self.vary)
        for option in self.options:
            key, equals, text = option.partition("=")
            if not equals or not key.isidentifier():
                raise ConfigError(f"env.options: expected KEY=VALUE, found {option!r}")
            if key == "render_mode":
                raise ConfigError("env.options: 'render_mode' is chosen here, frames are always wanted; leave it out")
            if key in kwargs or key in ("goal_marker", "vary"):
                raise ConfigError(f"env.options: '{key}' is given twice, or is a setting of its own (env.{key})")
            try:
                kwargs[key] = yaml.safe_load(text)
            except yaml.YAMLError as error:
                raise ConfigError(f"env.options: the value of {option!r} is not YAML: {error}") from error
        return kwargs


@dataclass(frozen=True)
class DataConfig:
    """Where episodes come from and how windows are cut from them."""

    source: Literal["collect", "dataset", "convert"] = "collect"
    """`collect`: run a policy in the environment; `dataset`: a folder in the episode format; `convert`: a published or
    recorded dataset in another format (see `jepawm data convert`), converted once."""
    path: str | None = None
    """The dataset folder (`dataset`), what is converted (`convert`), or the folder to collect into (`collect`; None:
    one named after all that its episodes depend on)."""
    format: str = "auto"
    """Format of what is converted, as `jepawm data convert --from` knows it; `auto`: recognised by its files."""
    statistics: Literal["train_split", "published"] = "train_split"
    """What actions and proprio are normalised with: the training episodes' own mean and deviation, or the constants
    published with a converted dataset."""
    policy: str = "wall_mixed_walk"
    """Data-collection policy (`collect`): a name in `envs.policies`, `uniform` for the action space's own sampler,
    `random_walk` for random actions that are held (environments that are adapted), or `auto` for the environment's
    usual policy."""
    num_episodes: int = 1920
    """Episodes to collect or convert; where converted, 0 means all."""
    env_steps_per_episode: int = 50
    """Environment steps in one collected episode."""
    codec: Literal["zstd", "png", "jpeg", "raw"] = "zstd"
    """How frames lie in the shards: `zstd` or `png` (lossless), `jpeg` (quality 95, for cameras), `raw`."""
    frameskip: int = 5
    """Environment steps per model step; an action chunk holds that many actions."""
    num_frames_in_window: int = 4
    """Frames in a training window."""
    held_out_fraction: float = 0.05
    """Share of whole episodes kept from training, for diagnostics and held-out evaluation."""
    loader: Literal["auto", "cache", "shards", "stream"] = "auto"
    """`cache`: decode once into a node-local memory map; `shards`: decode the frames of each window as it is asked for;
    `stream`: Ray Data reads shards and streams windows (needs Ray); `auto`: `cache` while the decoded dataset stays
    under `cache_limit_gib`, else `stream` (`shards` with `--local`)."""
    cache_limit_gib: float = 8.0
    """Largest decoded dataset that `auto` caches, GiB."""

    def __post_init__(self) -> None:
        positive(self, "env_steps_per_episode", "frameskip", "cache_limit_gib")
        fraction(self, "held_out_fraction")
        if self.num_frames_in_window < 2:
            raise ConfigError(
                f"data.num_frames_in_window must be at least 2 (a frame and its successor), "
                f"found {self.num_frames_in_window}"
            )
        not_negative(self, "num_episodes")


@dataclass(frozen=True)
class LossConfig:
    """Weights of the terms of the training loss; a weight of 0 leaves the term out."""

    supervision: Literal["unroll", "teacher_forcing"] = "unroll"
    """`unroll`: windows are unrolled from their first frame; `teacher_forcing`: each frame is predicted from the true
    ones before it, in one pass."""
    prediction: float = 1.0
    """Mean squared error of the predicted visual latents against the encoded ones."""
    proprio_prediction: float = 1.0
    """The same for the proprio part of the latents, in models that have one."""
    inverse_dynamics: float = 1.0
    """Mean squared error of the action chunk read from two successive latents."""
    variance: float = 16.0
    """Hinge that keeps the standard deviation of each latent dimension above 1."""
    covariance: float = 8.0
    """Squared off-diagonal covariance of the latents."""
    moments: Literal["all", "per_frame"] = "all"
    """Variance and covariance over all frames of the batch together, or over the batch for each frame of the window."""
    temporal_variance: float = 0.0
    """Hinge that keeps the standard deviation over a window's frames above 1."""
    time_similarity: float = 12.0
    """Mean squared distance of successive latents."""
    sigreg: float = 0.0
    """Sketched isotropic Gaussian regularisation (LeWM's anti-collapse term)."""
    sigreg_num_projections: int = 256
    """Random directions a step that SIGReg tests."""

    def __post_init__(self) -> None:
        not_negative(self, "inverse_dynamics", "variance", "covariance", "time_similarity", "sigreg")
        not_negative(self, "proprio_prediction", "temporal_variance")
        positive(self, "prediction", "sigreg_num_projections")


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 1e-3
    """Peak learning rate."""
    weight_decay: float = 1e-5
    """Decoupled weight decay."""
    grad_clip_norm: float = 2.0
    """Largest gradient norm; 0 turns clipping off."""
    warmup_fraction: float = 0.05
    """Share of the train steps over which the learning rate rises."""
    final_fraction: float = 0.02
    """Last learning rate as a share of the peak."""

    def __post_init__(self) -> None:
        positive(self, "learning_rate")
        not_negative(self, "weight_decay", "grad_clip_norm")
        fraction(self, "warmup_fraction", "final_fraction")


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    num_train_steps: int = 3000
    """Updates in all."""
    batch_size: int = 128
    """Windows per update over ALL workers; each takes an equal share."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it natively, else float32."""
    checkpoint_every: int = 500
    """Train steps between checkpoints; one is always written at the end."""
    num_checkpoints_kept: int = 2
    """Newest checkpoints kept on disk."""
    log_every: int = 50
    """Train steps between two lines of metrics."""
    diagnostics_every: int = 500
    """Train steps between two measurements of collapse on held-out windows (variance, effective rank, linear probe)."""
    diagnostics_windows: int = 1024
    """Held-out windows that a measurement uses."""

    def __post_init__(self) -> None:
        positive(
            self,
            "num_train_steps",
            "batch_size",
            "checkpoint_every",
            "num_checkpoints_kept",
            "log_every",
            "diagnostics_every",
            "diagnostics_windows",
        )


@dataclass(frozen=True)
class PlannerConfig:
    """The search for a plan (cross-entropy method)."""

    name: Literal["cem"] = "cem"
    """`cem`: the cross-entropy method."""
    horizon: int = 6
    """Action chunks in a plan."""
    num_samples: int = 300
    """Candidate plans per iteration and episode."""
    num_elites: int = 30
    """Best candidates that the next iteration's distribution is fitted to."""
    num_iterations: int = 10
    """Iterations of a first plan."""
    num_iterations_warm: int = 4
    """Iterations of a replan that starts from the shifted last plan."""
    init_std: float = 1.0
    """Standard deviation of the first candidates, in standard deviations of the data's actions."""
    min_std: float = 0.05
    """Floor of the search distribution's standard deviation."""
    hold_actions: bool = True
    """Search one action per chunk and hold it for the whole chunk; off: search every environment step's action."""
    proprio_weight: float = 0.1
    """Weight of the proprio part of the cost beside the visual part, for models that see proprio."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: bfloat16 autocast where the device computes it natively, else float32."""
    max_candidates_per_forward: int = 0
    """Candidates per forward pass and episode (micro-batching; the plan does not change); 0: all at once."""

    def __post_init__(self) -> None:
        positive(self, "horizon", "num_samples", "num_elites", "num_iterations", "num_iterations_warm", "init_std")
        not_negative(self, "min_std", "proprio_weight", "max_candidates_per_forward")
        if not 2 <= self.num_elites <= self.num_samples:
            raise ConfigError(
                f"planner.num_elites must lie between 2 and planner.num_samples ({self.num_samples}), "
                f"found {self.num_elites}"
            )


@dataclass(frozen=True)
class ProtocolConfig:
    """How plans become actions in the environment, and when an episode counts as solved."""

    replan_every: int
    """Chunks of a plan that are executed before the next plan; at most `planner.horizon`."""
    max_chunks: int
    """Chunks executed in one episode at most."""
    success_at: Literal["plan_end", "any_env_step"]
    """`plan_end`: solved if the goal condition holds when a plan has been executed; `any_env_step`: if it ever held."""
    cost: Literal["last", "sum"]
    """`last`: distance of the last predicted latent to the goal's; `sum`: over all predicted latents."""

    def __post_init__(self) -> None:
        positive(self, "replan_every", "max_chunks")


ProtocolName = Literal["two_plan", "per_chunk", "open_loop"]


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes, which goals and which protocols a model is judged by."""

    seed: int = 99
    """Seed of the episodes; the task of episode i is drawn with seed * i + 1, as DINO-WM does."""
    num_episodes: int = 50
    """Episodes per protocol."""
    goal_source: Literal["sampler", "held_out"] = "sampler"
    """`sampler`: start and goal from the environment's own sampler; `held_out`: a state of a held-out episode and the
    one `goal_offset` model steps later."""
    goal_offset: int = 5
    """Model steps from start to goal in the data (`held_out`)."""
    protocols: tuple[ProtocolName, ...] = ("two_plan", "per_chunk", "open_loop")
    """Protocols to run; the first is the headline of `eval.json`."""
    two_plan: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=12, success_at="plan_end", cost="last")
    )
    """Plan, execute all of it, and once more for the episodes that did not end at the goal (DINO-WM's MPC)."""
    per_chunk: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=1, max_chunks=12, success_at="any_env_step", cost="sum")
    )
    """Replan after every chunk."""
    open_loop: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=6, success_at="plan_end", cost="last")
    )
    """One plan, executed blindly."""
    num_animations: int = 6
    """Episodes shown as animations in the report."""
    prediction_horizon: int = 6
    """Largest number of model steps at which held-out prediction is measured."""

    def __post_init__(self) -> None:
        positive(self, "num_episodes", "goal_offset", "prediction_horizon")
        if not self.protocols:
            raise ConfigError("evaluation.protocols must name at least one protocol")
        if len(set(self.protocols)) < len(self.protocols):
            raise ConfigError(f"evaluation.protocols names a protocol twice: {', '.join(self.protocols)}")
        not_negative(self, "num_animations", "seed")


@dataclass(frozen=True)
class ScalingConfig:
    """How wide the run is on Ray."""

    num_workers: int = 1
    """Training workers (one GPU each where there are GPUs)."""
    cpus_per_worker: int = 0
    """CPUs of a training worker; 0: the machine's CPUs shared by the workers."""
    num_env_actors: int = 2
    """Actors that host environments."""
    episodes_per_call: int = 32
    """Episodes an actor collects per call."""
    max_actor_restarts: int = 3
    """Times one environment actor may die before its episodes move to the others."""
    env_call_timeout_s: float = 300.0
    """An environment call that takes longer counts as a dead actor, seconds."""
    max_train_failures: int = 3
    """Times a training worker may die; training goes on from the last checkpoint."""
    object_store_memory_mib: int = 0
    """Object store of a Ray started here, MiB; 0: Ray's default."""

    def __post_init__(self) -> None:
        positive(self, "num_workers", "num_env_actors", "episodes_per_call", "env_call_timeout_s")
        not_negative(self, "cpus_per_worker", "max_actor_restarts", "max_train_failures", "object_store_memory_mib")


@dataclass(frozen=True)
class TrackingConfig:
    """Metrics: `metrics.jsonl` in the run directory is the truth; MLflow reads along."""

    mlflow: bool = True
    """Copy metrics, config and report to MLflow."""
    mlflow_uri: str | None = None
    """Tracking URI; None: `sqlite:///` beside the runs."""
    experiment: str = "jepawm"
    """MLflow experiment."""


@dataclass(frozen=True)
class RunConfig:
    """One run: episodes, a trained world model, an evaluation and a report."""

    seed: int = 0
    """Seed of everything random in collecting and training."""
    device: str = "auto"
    """`auto` (cuda, mps, cpu in this order) or a torch device."""
    local: bool = False
    """Run everything in this process, without importing Ray."""
    run_dir: str | None = None
    """Directory of the run; None: a new one under `$JEPAWM_HOME` (else ./runs)."""
    resume: Literal["auto", "never"] = "auto"
    """`auto`: continue the newest unfinished run of the same configuration (or the one in `run_dir`)."""
    env: EnvConfig = field(default_factory=EnvConfig)
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    planner: PlannerConfig = field(default_factory=PlannerConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    scaling: ScalingConfig = field(default_factory=ScalingConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ConfigError(f"seed must not be negative, found {self.seed}")
        if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", self.device):
            raise ConfigError(f"device must be auto, cpu, mps, cuda or cuda:N, found '{self.device}'")
        if self.env.id == "none" and (self.data.source == "collect" or self.evaluation.goal_source == "held_out"):
            raise ConfigError(
                "env.id is 'none': episodes cannot be collected (data.source) and no goal can be reached "
                "(evaluation.goal_source 'held_out' plans in an environment); set env.id, or data.source and sampler"
            )
        if self.data.source == "collect" and self.data.num_episodes < 1:
            raise ConfigError("data.num_episodes must be at least 1 where episodes are collected, found 0")
        needed = self.data.frameskip * (self.data.num_frames_in_window - 1)
        if self.data.source == "collect" and self.data.env_steps_per_episode < needed:
            raise ConfigError(
                f"data.env_steps_per_episode {self.data.env_steps_per_episode} is shorter than one training window: "
                f"{self.data.num_frames_in_window} frames, {self.data.frameskip} env_steps apart, need {needed}; raise "
                "it, or lower data.frameskip or data.num_frames_in_window"
            )
        if self.data.source != "collect" and not self.data.path:
            raise ConfigError(f"data.path is needed when data.source is '{self.data.source}': pass --data.path PATH")
        if self.train.batch_size % self.scaling.num_workers:
            raise ConfigError(
                f"train.batch_size is global and must be divisible by scaling.num_workers: found "
                f"{self.train.batch_size} windows for {self.scaling.num_workers} workers"
            )
        if self.model.encoder.trainable and not (self.loss.variance or self.loss.sigreg or self.loss.inverse_dynamics):
            raise ConfigError(
                "every anti-collapse term is off (loss.variance, loss.sigreg and loss.inverse_dynamics are all 0): an "
                "encoder that trains collapses to a constant without one; give at least one a weight, or freeze it "
                "(model.encoder.trainable)"
            )
        longest, window = self.model.predictor.longest_window, self.data.num_frames_in_window - 1
        if self.loss.supervision == "teacher_forcing" and longest is not None and longest < window:
            raise ConfigError(
                f"data.num_frames_in_window {window + 1} shows the predictor {window} frames at once, its learned "
                f"position table holds {longest}; raise model.predictor.num_positions"
            )
        if self.local and self.data.loader == "stream":
            raise ConfigError("data.loader 'stream' is Ray Data and cannot run with --local; use 'shards' or 'cache'")
        if self.local and self.scaling.num_workers > 1:
            raise ConfigError(
                f"--local trains in this one process; scaling.num_workers must be 1, found {self.scaling.num_workers}"
            )
        for name in self.evaluation.protocols:
            protocol: ProtocolConfig = getattr(self.evaluation, name)
            if protocol.replan_every > self.planner.horizon:
                raise ConfigError(
                    f"evaluation.{name}.replan_every ({protocol.replan_every}) is longer than a plan: "
                    f"planner.horizon is {self.planner.horizon}"
                )

    def training_identity(self) -> dict[str, Any]:
        """The part of the configuration that fixes a trained model; runs that differ here are different runs."""
        full = to_dict(self)
        return {key: full[key] for key in ("seed", "env", "data", "model", "loss", "optim", "train")}


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain nested dicts and lists, for YAML, JSON and checkpoints."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [plain(item) for item in value]
        return value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}


def home() -> str:
    """Root of runs and datasets: `$JEPAWM_HOME`, else `./runs`; under `ray job submit`, `~/jepawm-runs`.

    A submitted job's working directory is an upload that vanishes with the job, so nothing is kept there.
    """
    if os.environ.get("JEPAWM_HOME"):
        return os.path.abspath(os.path.expanduser(os.environ["JEPAWM_HOME"]))
    if os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return os.path.expanduser("~/jepawm-runs")
    return os.path.abspath("runs")
