"""What became of episodes that were played, as types: outcomes, protocols, goal distances, causes of failure."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from jepawm.config.evaluation import ProtocolConfig
from jepawm.evaluation.metrics import SuccessRate, search_verdicts, unbeaten

Cause = Literal["search", "cost", "model", "replanning"]
CAUSES: dict[Cause, str] = {
    "search": "the search did not propose what works",
    "cost": "the cost preferred another end, even with the true outcome of each candidate",
    "model": "the model imagined what did not happen",
    "replanning": "the first plan would have reached the goal, but it was not executed to its end",
}


@dataclass(frozen=True)
class EpisodeOutcome:
    """What became of one episode.

    Attributes:
        episode_id: Of the task.
        solved: Under the protocol's rule.
        env_steps: Environment steps executed.
        num_plans: Plans made.
        start, goal, end: Simulator states.
        variation: Factors of variation in this episode; None: as the environment was made.
        distance: From the end to the goal, in the unit of `EvaluationResult.distance_name`; None where the environment
            measures none.
        solved_ever: Whether the goal condition held after any executed env_step; None in files of earlier versions.
        solved_at_end: Whether it held after the last executed env_step.
        env_steps_to_success: Executed env_steps until it first held; None where it never did.
        latent_distance: Mean squared difference between the visual latents of the last frame and of the goal.
    """

    episode_id: int
    solved: bool
    env_steps: int
    num_plans: int
    start: list[float]
    goal: list[float]
    end: list[float]
    variation: dict[str, Any] | None = None
    distance: float | None = None
    solved_ever: bool | None = None
    solved_at_end: bool | None = None
    env_steps_to_success: int | None = None
    latent_distance: float | None = None


@dataclass(frozen=True)
class ProtocolResult:
    """One protocol, played on every task.

    Attributes:
        rate: Success rate with interval and number of episodes.
        episodes: One outcome a task, in order.
        plan_ms_p50: Median wall time of a batch of plans, ms.
        plan_ms_p95: Its 95th percentile, ms.
        mean_plan_batch: Episodes in such a batch, on average.
        wall_s: Wall time in all, seconds.
        mean_distance: From the ends to the goals, where the environment measures it.
        median_distance: The same.
        decision_ms_p50: Median over all decisions of the wall time of one episode's plan, ms: a batch's time divided by
            its episodes.
        decision_ms_p95: The 95th percentile of the same, ms.
        env_steps_per_s: Environment steps executed per second of execution, drawing included, on all hosts together.
        success_ever: Share of episodes in which the goal condition held after any executed env_step.
        success_at_end: Share of episodes in which it held after the last executed env_step.
        median_env_steps_to_success: Of the episodes in which it ever held; None where it never did.
        mean_latent_distance: Mean of `EpisodeOutcome.latent_distance`.
    """

    rate: SuccessRate
    episodes: tuple[EpisodeOutcome, ...]
    plan_ms_p50: float
    plan_ms_p95: float
    mean_plan_batch: float
    wall_s: float
    mean_distance: float | None = None
    median_distance: float | None = None
    decision_ms_p50: float | None = None
    decision_ms_p95: float | None = None
    env_steps_per_s: float | None = None
    success_ever: float | None = None
    success_at_end: float | None = None
    median_env_steps_to_success: float | None = None
    mean_latent_distance: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`."""
        data = {**rate_to_dict(self.rate), **{item.name: getattr(self, item.name) for item in fields(self)[2:]}}
        data = {key: value for key, value in data.items() if value is not None}
        return {**data, "episodes": [asdict(outcome) for outcome in self.episodes]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ProtocolResult":
        """Inverse of `to_dict`."""
        return cls(
            rate=rate_from_dict(data),
            episodes=tuple(EpisodeOutcome(**outcome) for outcome in data["episodes"]),
            **{item.name: data.get(item.name) for item in fields(cls)[2:]},  # type: ignore[arg-type]
        )


@dataclass(frozen=True)
class DiagnosedEpisode:
    """Why one episode failed, from its first plan; `jepawm.evaluation.failures` defines the causes.

    Attributes:
        episode_id: Of the task.
        cause: What failed.
        num_reaching: Candidates that reach the goal when the environment executes them.
        demonstration_reaches: Whether the actions that the goal comes from reach it; None where none are known.
        imagined_cost: Of the plan, by the latents that the model predicts.
        true_cost: Of the plan, by the latents of the frames it leads to.
        imagined_cost_of_reaching: Of the candidate that reaches the goal and costs least by prediction; None where none
            reaches it.
        true_cost_of_reaching: The least true cost among the candidates that reach the goal.
    """

    episode_id: int
    cause: Cause
    num_reaching: int
    demonstration_reaches: bool | None
    imagined_cost: float
    true_cost: float
    imagined_cost_of_reaching: float | None
    true_cost_of_reaching: float | None


@dataclass(frozen=True)
class FailureDiagnosis:
    """Why episodes failed.

    Attributes:
        num_failed: Failed episodes in all.
        num_candidates: Candidates replayed for each diagnosed episode, besides its plan and its demonstration.
        episodes: The diagnosed ones.
    """

    num_failed: int
    num_candidates: int
    episodes: tuple[DiagnosedEpisode, ...]

    @property
    def counts(self) -> dict[Cause, int]:
        """Diagnosed episodes of each cause."""
        return {cause: sum(episode.cause == cause for episode in self.episodes) for cause in CAUSES}

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`."""
        return {
            "num_failed": self.num_failed,
            "num_diagnosed": len(self.episodes),
            "num_candidates": self.num_candidates,
            "causes": dict(self.counts),
            "shares": {cause: count / max(1, len(self.episodes)) for cause, count in self.counts.items()},
            "episodes": [asdict(episode) for episode in self.episodes],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "FailureDiagnosis":
        """Inverse of `to_dict`."""
        episodes = tuple(DiagnosedEpisode(**episode) for episode in data["episodes"])
        return cls(data["num_failed"], data["num_candidates"], episodes)


@dataclass(frozen=True)
class ProtocolReport:
    """One protocol with the baseline beside it.

    Attributes:
        rules: When plans are made and what counts as solved; `cost` is resolved.
        planned: What the planner reached.
        random: What random plans reached under the same rules.
        failures: Why planned episodes failed; None where it was not asked for, or none failed.
        conditions: What a published number must say to be comparable: how actions are gathered, the budget, ...
        baselines: What policies that search nothing reached under the same rules, by the name of their head.
    """

    rules: ProtocolConfig
    planned: ProtocolResult
    random: ProtocolResult
    failures: FailureDiagnosis | None = None
    conditions: dict[str, str] | None = None
    baselines: dict[str, ProtocolResult] = field(default_factory=dict)

    @property
    def baseline_rates(self) -> dict[str, SuccessRate]:
        """Success rates of the policies that search nothing, by the name of their head."""
        return {name: baseline.rate for name, baseline in self.baselines.items()}

    def verdicts(self) -> list[str]:
        """One sentence for each baseline that planning does not beat."""
        return search_verdicts(self.planned.rate, self.baseline_rates)

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`."""
        data = {
            **self.planned.to_dict(),
            "random": self.random.to_dict(),
            "unbeaten": list(unbeaten(self.planned.rate, self.baseline_rates)),
            "baselines": {name: result.to_dict() for name, result in self.baselines.items()},
            "protocol": asdict(self.rules),
        }
        if self.failures is not None:
            data["failures"] = self.failures.to_dict()
        return data if self.conditions is None else {**data, "conditions": self.conditions}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ProtocolReport":
        """Inverse of `to_dict`."""
        return cls(
            rules=ProtocolConfig(**data["protocol"]),
            planned=ProtocolResult.from_dict(data),
            random=ProtocolResult.from_dict(data["random"]),
            failures=FailureDiagnosis.from_dict(data["failures"]) if "failures" in data else None,
            conditions=data.get("conditions"),
            baselines={name: ProtocolResult.from_dict(each) for name, each in data.get("baselines", {}).items()},
        )


@dataclass(frozen=True)
class DistancePoint:
    """The first protocol, played with goals at one distance.

    Attributes:
        goal_offset_env_steps: Environment steps from start to goal where the goals come from.
        solved_at_start: Tasks that were passed over, or that are counted, for they were solved before they began.
        tasks_sha256: Of the tasks.
        report: What planned and random plans reached; `rules` hold the chunks that an episode had.
    """

    goal_offset_env_steps: int
    solved_at_start: int
    tasks_sha256: str
    report: ProtocolReport

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`."""
        return {**{item.name: getattr(self, item.name) for item in fields(self)[:3]}, **self.report.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "DistancePoint":
        """Inverse of `to_dict`."""
        return cls(report=ProtocolReport.from_dict(data), **{item.name: data[item.name] for item in fields(cls)[:3]})


def rate_to_dict(rate: SuccessRate) -> dict[str, Any]:
    """The three keys of a rate in `eval.json`."""
    return asdict(rate)


def rate_from_dict(data: Mapping[str, Any]) -> SuccessRate:
    """Inverse of `rate_to_dict`."""
    low, high = data["success_interval"]
    return SuccessRate(data["success_rate"], (low, high), data["num_episodes"])
