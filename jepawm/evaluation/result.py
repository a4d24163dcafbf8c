"""What an evaluation found, as types. Report, console, tracker and comparison read these; `eval.json` holds them.

`to_dict` and `from_dict` are inverses, and the keys of `eval.json` only ever grow: files of earlier versions are read.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from jepawm.evaluation.image_outcomes import ImageGoals
from jepawm.evaluation.outcomes import DistancePoint, ProtocolReport, rate_to_dict


@dataclass(frozen=True)
class PredictionRow:
    """Held-out latent prediction after some model steps: mean squared errors.

    Attributes:
        model_steps: Predicted ahead.
        model: Unrolled with the true actions.
        persistence: The latent stays as it is.
        shuffled_actions: Unrolled with another window's actions.
        variance: Predicting the mean latent.
    """

    model_steps: int
    model: float
    persistence: float
    shuffled_actions: float
    variance: float

    @property
    def share_of_persistence(self) -> float | None:
        """The model's error over the one of doing nothing; below 1 the model predicts something.

        None where no latent changed: doing nothing makes no error there, so no model can be better.
        """
        return None if self.persistence == 0 else self.model / self.persistence


@dataclass(frozen=True)
class HeldOut:
    """What held-out episodes say of a model.

    Attributes:
        prediction: One row a model step.
        prediction_windows: Windows measured.
        prediction_episodes: Episodes they come from.
        diagnostics: Collapse and linear probes, by metric name.
        images: How near the frames that a head draws from predicted latents are to the true ones, by the name of the
            head: one row a model step, the first of encoded latents (`model_steps` 0), each with the metrics of
            `jepawm.training.image_metrics`.
    """

    prediction: tuple[PredictionRow, ...] = ()
    prediction_windows: int | None = None
    prediction_episodes: int | None = None
    diagnostics: dict[str, float] = field(default_factory=dict)
    images: dict[str, list[dict[str, float]]] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetFacts:
    """The episodes that a model was trained on: where they are, their fingerprint, and which were held out."""

    path: str
    fingerprint: str
    num_episodes: int
    held_out_episodes: list[int]


@dataclass(frozen=True)
class ModelFacts:
    """The model that was judged: where it is, the SHA-256 of its weights, and its size."""

    path: str
    sha256: str
    num_parameters: int


@dataclass(frozen=True)
class Provenance:
    """Where the numbers come from: time, code, versions and machine."""

    created: str
    git_revision: str | None
    versions: dict[str, str]
    hardware: dict[str, Any]


@dataclass(frozen=True)
class Played:
    """What was played in an environment.

    Attributes:
        protocols: By name, in the order they were played; the first is the headline.
        solved_at_start: Tasks that were passed over, for they were solved before they began.
        goal_source: Where the goals come from.
        distance_name: What distances measure, with the unit; empty where there are none.
        tasks_sha256: Of the tasks: equal ones are the same episodes with the same goals.
        distance_curve: The first protocol with goals at several distances; empty where it was not asked for.
        episodes_file: The episode set that was played; empty where the tasks were drawn.
        host_log: One line per environment or planner host that died; its episodes were played again.
    """

    protocols: dict[str, ProtocolReport]
    solved_at_start: int
    goal_source: str
    distance_name: str
    tasks_sha256: str
    distance_curve: tuple[DistancePoint, ...] = ()
    episodes_file: str = ""
    host_log: tuple[str, ...] = ()

    @property
    def headline(self) -> str:
        """Name of the first protocol."""
        return next(iter(self.protocols))


@dataclass(frozen=True)
class EvaluationResult:
    """A whole evaluation.

    Attributes:
        seed: Of the episodes.
        model: What was judged.
        config: The run's configuration, as plain data.
        provenance: Where the numbers come from.
        held_out: What held-out episodes say.
        played: What was played; None where there is no environment, or where goals are pictures.
        image_goals: What plans towards pictures reached; None where goals are states.
        dataset: The episodes the model was trained on; None where they are not here.
        recipe: Name of the run's recipe.
        run_dir: Where `eval.json` lies.
        report: Path of the report.
        mlflow_uri: Address of the tracker, if there is one.
        wall_s: Wall time of each stage, seconds.
        conditions: What must be equal for two numbers to be comparable: action scaling, image normalisation, history.
        published: The published evaluation that the settings come from, with the settings that differ; None: none.
    """

    seed: int
    model: ModelFacts
    config: dict[str, Any]
    provenance: Provenance
    held_out: HeldOut = HeldOut()
    played: Played | None = None
    dataset: DatasetFacts | None = None
    recipe: str = ""
    run_dir: str = ""
    report: str = ""
    mlflow_uri: str | None = None
    wall_s: dict[str, float] = field(default_factory=dict)
    conditions: dict[str, str] = field(default_factory=dict)
    published: dict[str, Any] | None = None
    image_goals: ImageGoals | None = None

    @property
    def protocols(self) -> dict[str, ProtocolReport]:
        """What was played, by protocol; empty where there is no environment."""
        return {} if self.played is None else self.played.protocols

    def to_dict(self) -> dict[str, Any]:
        """What `eval.json` holds."""
        data: dict[str, Any] = {}
        if self.played is not None:
            headline = self.played.protocols[self.played.headline]
            data |= {
                **rate_to_dict(headline.planned.rate),
                "random": rate_to_dict(headline.random.rate),
                "baselines": {name: rate_to_dict(each.rate) for name, each in headline.baselines.items()},
                "protocol": self.played.headline,
                "episodes": headline.planned.to_dict()["episodes"],
                "solved_at_start": self.played.solved_at_start,
                "goal_source": self.played.goal_source,
                "distance_name": self.played.distance_name,
                "distance_curve": [point.to_dict() for point in self.played.distance_curve],
                "episodes_file": self.played.episodes_file,
                "host_log": list(self.played.host_log),
            }
        data |= {
            "protocols": {name: protocol.to_dict() for name, protocol in self.protocols.items()},
            "seed": self.seed,
            "prediction": [asdict(row) for row in self.held_out.prediction],
            "diagnostics": self.held_out.diagnostics,
            "images": self.held_out.images,
            "config": self.config,
            "model": asdict(self.model),
            **asdict(self.provenance),
            "tasks_sha256": "" if self.played is None else self.played.tasks_sha256,
        }
        if self.dataset is not None:
            data["dataset"] = asdict(self.dataset)
        if self.held_out.prediction_windows is not None:
            data["prediction_windows"] = self.held_out.prediction_windows
            data["prediction_episodes"] = self.held_out.prediction_episodes
        last = ("wall_s", "recipe", "run_dir", "report", "mlflow_uri", "conditions", "published")
        data["image_goals"] = None if self.image_goals is None else self.image_goals.to_dict()
        return {**data, **{name: getattr(self, name) for name in last}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "EvaluationResult":
        """Inverse of `to_dict`; reads the `eval.json` of earlier versions too."""
        played = None
        if data["protocols"]:
            played = Played(
                protocols={name: ProtocolReport.from_dict(each) for name, each in data["protocols"].items()},
                distance_curve=tuple(DistancePoint.from_dict(each) for each in data.get("distance_curve", ())),
                episodes_file=data.get("episodes_file", ""),
                host_log=tuple(data.get("host_log", ())),
                **{item.name: data[item.name] for item in fields(Played)[1:5]},
            )
        held_out = HeldOut(
            prediction=tuple(PredictionRow(**row) for row in data["prediction"]),
            prediction_windows=data.get("prediction_windows"),
            prediction_episodes=data.get("prediction_episodes"),
            # JSON has no NaN; a probe of a number that does not vary is null there.
            diagnostics={key: float("nan") if value is None else value for key, value in data["diagnostics"].items()},
            images=data.get("images", {}),
        )
        return cls(
            seed=data["seed"],
            model=ModelFacts(**data["model"]),
            config=data["config"],
            provenance=Provenance(**{item.name: data[item.name] for item in fields(Provenance)}),
            held_out=held_out,
            played=played,
            dataset=DatasetFacts(**data["dataset"]) if "dataset" in data else None,
            conditions=data.get("conditions", {}),
            published=data.get("published"),
            image_goals=ImageGoals.from_dict(data["image_goals"]) if data.get("image_goals") else None,
            **{name: data[name] for name in ("recipe", "run_dir", "report", "mlflow_uri", "wall_s")},
        )
