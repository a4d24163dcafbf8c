"""What became of episodes whose goal is a picture, as types."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from jepawm.config.evaluation import ProtocolConfig
from jepawm.evaluation.metrics import SuccessRate, success_rate
from jepawm.evaluation.outcomes import rate_from_dict, rate_to_dict


@dataclass(frozen=True)
class ImageGoalEpisode:
    """One episode towards a picture.

    Attributes:
        episode_id: With the seed of the evaluation it fixes the start.
        picture: The goal.
        start, end: Simulator states.
        distance_at_start: Latent distance of the first frame to the picture.
        distance_at_end: Of the last frame.
        random_distance_at_end: Of the last frame that random plans lead to.
        solved: Whether the goal condition holds after the last env_step; None where no state is known.
    """

    episode_id: int
    picture: str
    start: list[float]
    end: list[float]
    distance_at_start: float
    distance_at_end: float
    random_distance_at_end: float
    solved: bool | None = None


@dataclass(frozen=True)
class ImageGoals:
    """What plans towards pictures reached.

    Attributes:
        path: Of the pictures.
        protocol: Name of the rules.
        rules: When plans were made; no episode is over before its last env_step.
        episodes: One outcome each.
        rate: Success after the last env_step; None where no states are known.
        random_rate: Of random plans.
    """

    path: str
    protocol: str
    rules: ProtocolConfig
    episodes: tuple[ImageGoalEpisode, ...]
    rate: SuccessRate | None = None
    random_rate: SuccessRate | None = None

    @property
    def means(self) -> tuple[float, float, float]:
        """Mean latent distance at the start, at the end, and at the end of random plans."""
        rows = [(each.distance_at_start, each.distance_at_end, each.random_distance_at_end) for each in self.episodes]
        at_start, at_end, random = np.mean(rows, axis=0)
        return float(at_start), float(at_end), float(random)

    @property
    def nearer_than_random(self) -> SuccessRate:
        """Share of episodes that end nearer to their picture than with random plans."""
        return success_rate([each.distance_at_end < each.random_distance_at_end for each in self.episodes])

    def to_dict(self) -> dict[str, Any]:
        """Plain types, for `eval.json`."""
        rates = {"rate": self.rate, "random_rate": self.random_rate}
        return {
            **asdict(self),
            **{name: None if rate is None else rate_to_dict(rate) for name, rate in rates.items()},
            "success_is": "not judged, no simulator state of the goals is known" if self.rate is None else "at the end",
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ImageGoals":
        """Inverse of `to_dict`."""
        rates = {name: None if data[name] is None else rate_from_dict(data[name]) for name in ("rate", "random_rate")}
        return cls(
            path=data["path"],
            protocol=data["protocol"],
            rules=ProtocolConfig(**data["rules"]),
            episodes=tuple(ImageGoalEpisode(**each) for each in data["episodes"]),
            **rates,
        )
