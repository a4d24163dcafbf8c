"""The section `evaluation`: episodes, goals and protocols."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from jepawm.config.checks import not_negative, positive
from jepawm.config.data import DataConfig
from jepawm.config.env import EnvConfig
from jepawm.config.objective import ObjectiveConfig, Weighting
from jepawm.config.planner import PlannerConfig
from jepawm.config.subgoals import SubgoalConfig
from jepawm.errors import ConfigError

SuccessAt = Literal["plan_end", "any_env_step", "episode_end"]


@dataclass(frozen=True)
class ProtocolConfig:
    """How plans become actions in the environment, and when an episode counts as solved."""

    section: ClassVar[str] = "evaluation.<protocol>"

    replan_every: int
    """Chunks of a plan that are executed before the next plan; at most `planner.horizon`."""
    max_chunks: int
    """Chunks executed in one episode at most."""
    success_at: SuccessAt
    """`plan_end`: solved, and over, if the goal condition holds when a plan has been executed; `any_env_step`: if it
    ever held; `episode_end`: solved if it holds after the last env_step, and no episode is over before."""
    cost: Weighting | None = None
    """`last`: distance of the last predicted latent to the goal's; `sum`: over all predicted latents; None: as
    `objective.weighting` says."""
    horizon: Literal["fixed", "shrinking"] = "fixed"
    """`fixed`: every plan has `planner.horizon` chunks; `shrinking`: a replan ends where the plan before it ended, so
    the horizon shrinks by `replan_every` until nothing is left, and then a whole plan is made afresh."""
    warm_start: bool = True
    """Start a replan from the unexecuted rest of the plan before it; off: every search starts afresh."""

    def __post_init__(self) -> None:
        positive(self, "replan_every", "max_chunks")

    @property
    def replans(self) -> bool:
        """Whether an episode may have more than one plan."""
        return self.max_chunks > self.replan_every

    def check_horizon(self, name: str, horizon: int) -> None:
        """Refuses a protocol that does not fit the planner's horizon.

        Args:
            name: Of the protocol, for the error.
            horizon: Chunks in a plan.

        Raises:
            ConfigError: More chunks are executed of a plan than it has, or a shrinking plan does not end at a replan.
        """
        if self.replan_every > horizon:
            raise ConfigError(
                f"evaluation.{name}.replan_every ({self.replan_every}) is longer than a plan: "
                f"planner.horizon is {horizon}"
            )
        if self.horizon == "shrinking" and horizon % self.replan_every:
            raise ConfigError(
                f"evaluation.{name}.horizon is 'shrinking': planner.horizon ({horizon}) must be a multiple of "
                f"evaluation.{name}.replan_every ({self.replan_every}), so that a plan ends where a replan would begin"
            )


@dataclass(frozen=True)
class NearestStartsConfig:
    """Recorded actions that searches start from: those that followed latents like the present's, and led to latents
    like the goal's."""

    section: ClassVar[str] = "evaluation.nearest_starts"

    num_starts: int = 0
    """Recorded sequences that a search may start from, beside the rest of the last plan; it begins at the cheapest.
    0: none. Wherever a search is given a start it has `planner.num_iterations_warm` iterations."""
    num_episodes: int = 500
    """Training episodes in the index, evenly spaced over the dataset."""
    dims: int = 64
    """Most numbers that stand for a latent in the index; a frame takes 4 bytes for each, and 4 for each of its action
    chunk's."""
    memory_gib: float = 2.0
    """Most memory that the whole latents of eight episodes may take while they are encoded, GiB."""

    def __post_init__(self) -> None:
        not_negative(self, "num_starts")
        positive(self, "num_episodes", "dims", "memory_gib")


ProtocolName = Literal["two_plan", "per_chunk", "open_loop", "mpc"]
GoalSource = Literal["sampler", "held_out", "held_out_replay", "other_episode", "expert", "random_actions", "image"]

# Sources that take goals from held-out episodes.
FROM_RECORDINGS = ("held_out", "held_out_replay", "other_episode")
# Sources whose goals lie a known number of env_steps after the start.
WITH_OFFSET = ("held_out", "held_out_replay", "expert", "random_actions")


@dataclass(frozen=True)
class EvaluationConfig:
    """Which episodes, which goals and which protocols a model is judged by."""

    section: ClassVar[str] = "evaluation"

    seed: int = 99
    """Seed of the episodes; the task of episode i is drawn with seed * i + 1, as DINO-WM does."""
    num_episodes: int = 50
    """Episodes per protocol."""
    episodes: str | None = None
    """An episode set that an evaluation or `jepawm episodes make` wrote: its starts and goals are played in place of
    those that `seed`, `num_episodes` and `goal_source` would give."""
    goal_source: GoalSource = "sampler"
    """`sampler`: start and goal from the environment's own sampler; `held_out`: a state of a held-out episode and the
    one `goal_offset` model steps later; `held_out_replay`: the same start, and where the recorded actions lead from it
    in the environment; `other_episode`: states of two held-out episodes; `expert`: a sampled start, and where the
    environment's scripted policy is after `goal_offset` model steps; `random_actions`: the same with uniform random
    actions; `image`: a sampled start, and a picture that a person gives (`goal_images`)."""
    goal_images: str | None = None
    """The pictures of `image`: a file (PNG, JPEG), a folder of them, or a `.npz` with `pixels` [n,Y,X,3] and, where
    success is to be judged, `sim_state` [n,S]. Episode i has picture i, and they begin again after the last."""
    goal_offset: int = 5
    """Model steps from start to goal, for the sources that have it."""
    goal_offsets_env_steps: tuple[int, ...] = ()
    """Also play the first protocol with goals that lie so many env_steps after the start, each a multiple of
    `data.frameskip`: success against goal distance."""
    goal_policy: str = "auto"
    """The policy of `expert`, by its name in `envs.policies`; `auto`: the first one made for the environment."""
    solved_at_start: Literal["pass_over", "count"] = "pass_over"
    """Tasks whose goal condition holds at the start. `pass_over`: others take their place; `count`: they are played,
    as some published evaluations do."""
    protocols: tuple[ProtocolName, ...] = ("two_plan", "per_chunk", "open_loop")
    """Protocols to run; the first is the headline of `eval.json`."""
    two_plan: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=12, success_at="plan_end")
    )
    """Plan, execute all of it, and once more for the episodes that did not end at the goal (DINO-WM's MPC)."""
    per_chunk: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=1, max_chunks=12, success_at="any_env_step", cost="sum")
    )
    """Replan after every chunk."""
    open_loop: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=6, max_chunks=6, success_at="plan_end")
    )
    """One plan, executed blindly."""
    mpc: ProtocolConfig = field(
        default_factory=lambda: ProtocolConfig(replan_every=3, max_chunks=20, success_at="episode_end")
    )
    """Replan after a few chunks until the episode's env_steps are used up."""
    every_num_train_steps: int | None = None
    """Also evaluate while training goes on, each so many train steps (a multiple of `train.checkpoint_every`): the
    first protocol alone, on the same episodes; None: only at the end."""
    published: str | None = None
    """The published evaluation that the settings come from, see `jepawm evaluate --published`; the result says in which
    settings it differs."""
    num_animations: int = 6
    """Episodes shown as animations in the report, with what the model imagined beside them."""
    videos: bool = False
    """Also write each animation as a video beside the report, `episode-ID.mp4`; needs the extra `video`."""
    num_nearest_frames: int = 256
    """Where no head draws latents, an imagined latent is shown as the nearest of so many training frames; 0: it is not
    shown."""
    num_diagnosed_failures: int = 10
    """Failed episodes of the first protocol whose cause is found by replaying candidates in the environment; 0: none.
    """
    num_diagnosis_candidates: int = 32
    """Candidates that are replayed for each of them."""
    nearest_starts: NearestStartsConfig = field(default_factory=NearestStartsConfig)
    prediction_horizon: int = 6
    """Largest number of model steps at which held-out prediction is measured."""
    allow_other_env: bool = False
    """Judge a model in another environment than it was trained for."""

    @property
    def takes_recordings(self) -> bool:
        """Whether starts and goals are states of held-out episodes that have to be here."""
        return self.episodes is None and self.goal_source in FROM_RECORDINGS

    def __post_init__(self) -> None:
        positive(self, "num_episodes", "goal_offset", "prediction_horizon", "num_diagnosis_candidates")
        positive(self, "every_num_train_steps")
        if not self.protocols:
            raise ConfigError("evaluation.protocols must name at least one protocol")
        if len(set(self.protocols)) < len(self.protocols):
            raise ConfigError(f"evaluation.protocols names a protocol twice: {', '.join(self.protocols)}")
        not_negative(self, "num_animations", "num_nearest_frames", "num_diagnosed_failures", "seed")
        if (self.goal_source == "image") != (self.goal_images is not None):
            raise ConfigError(
                "evaluation.goal_source 'image' and evaluation.goal_images belong together: pass "
                "--evaluation.goal-source image --evaluation.goal-images PATH"
            )
        if self.goal_source == "image" and self.episodes is not None:
            raise ConfigError("evaluation.episodes fixes starts and goals, leave evaluation.goal_images out")
        offsets = self.goal_offsets_env_steps
        if any(offset < 1 for offset in offsets) or sorted(set(offsets)) != list(offsets):
            found = ", ".join(map(str, offsets))
            raise ConfigError(f"evaluation.goal_offsets_env_steps must be positive and ascending, found {found}")
        if offsets and self.episodes is not None:
            raise ConfigError(
                "evaluation.goal_offsets_env_steps draws goals at each distance, evaluation.episodes fixes them; leave "
                "one of them out"
            )
        if self.goal_source == "image" and self.nearest_starts.num_starts:
            raise ConfigError(
                "evaluation.nearest_starts looks for recorded windows near goals of the environment, and pictures as "
                "goals are played without it; set evaluation.nearest_starts.num_starts to 0"
            )
        if offsets and self.goal_source not in WITH_OFFSET:
            raise ConfigError(
                f"evaluation.goal_offsets_env_steps needs goals that lie some env_steps after their start: "
                f"evaluation.goal_source must be one of {', '.join(WITH_OFFSET)}, found '{self.goal_source}'"
            )


@dataclass(frozen=True)
class EvaluationPlan:
    """The slice of a run that fixes an evaluation.

    Attributes:
        seed: Of the split into training and held-out episodes, and of the held-out windows.
        env: The environment.
        data: Windows and split of the episodes the model was trained on.
        planner: The search.
        objective: The cost of a candidate.
        subgoals: What plans aim at on the way to a goal.
        evaluation: Episodes, goals and protocols.
        diagnostics_windows: Held-out windows that a measurement uses.
        run: The whole configuration as plain data, for the record.
        episodes_per_group: Episodes planned in one batch, at most; None: all.
    """

    seed: int
    env: EnvConfig
    data: DataConfig
    planner: PlannerConfig
    objective: ObjectiveConfig
    subgoals: SubgoalConfig
    evaluation: EvaluationConfig
    diagnostics_windows: int
    run: Mapping[str, Any]
    episodes_per_group: int | None = None
