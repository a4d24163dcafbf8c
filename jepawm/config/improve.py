"""The settings of `jepawm improve`: how often a model collects its own episodes, and how many."""

from dataclasses import dataclass
from typing import ClassVar

from jepawm.config.checks import positive
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class ImproveConfig:
    """Rounds in which a model collects episodes by planning, and trains on them with all that were there before."""

    section: ClassVar[str] = "improve"

    num_rounds: int = 3
    """Rounds after the first training."""
    episodes_per_round: int = 100
    """New episodes of each round."""
    policy_fraction: float = 0.25
    """Share of the new episodes that `data.policy` collects; in the others the model plans."""
    train_steps_per_round: int | None = None
    """Train steps of each round after the first training; None: as many as the first training has."""
    offline: bool = True
    """Also train a second model with the same train steps on the first episodes alone, to compare with."""

    def __post_init__(self) -> None:
        positive(self, "num_rounds", "episodes_per_round", "train_steps_per_round")
        if not 0.0 <= self.policy_fraction < 1.0:
            raise ConfigError(f"improve.policy_fraction must lie in [0, 1), found {self.policy_fraction}")

    @property
    def policy_episodes(self) -> int:
        """New episodes of a round that the policy collects."""
        return round(self.policy_fraction * self.episodes_per_round)

    @property
    def planned_episodes(self) -> int:
        """New episodes of a round that the model plans; at least 1."""
        return max(1, self.episodes_per_round - self.policy_episodes)
