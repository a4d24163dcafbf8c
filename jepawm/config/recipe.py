"""What a recipe says of itself (`about`): where it was published, on which data, and with which result."""

from dataclasses import dataclass
from typing import Any, ClassVar

from jepawm.config.recipe_files import ABOUT_KEY, recipe_family
from jepawm.config.yaml_io import from_dict
from jepawm.errors import ConfigError


@dataclass(frozen=True)
class PublishedResult:
    """One published number.

    Attributes:
        metric: What is measured, e.g. `success_rate` or `chamfer_distance`.
        value: The number; success rates lie in [0, 1].
        how: Planner, goals and number of episodes.
        spread: Its published spread, or None.
    """

    __pydantic_config__: ClassVar[Any] = {"extra": "forbid"}

    metric: str
    value: float
    how: str
    spread: float | None = None

    def __str__(self) -> str:
        spread = "" if self.spread is None else f" +- {self.spread:g}"
        return f"{self.metric} {self.value:g}{spread} ({self.how})"


@dataclass(frozen=True)
class RecipeDataset:
    """The episodes that a recipe was published with.

    Attributes:
        name: What they are called.
        episodes: Episodes that are trained on.
        frames: Frames of these episodes, at the rate at which windows begin.
        exact: Whether the counts are known, or estimated.
    """

    section: ClassVar[str] = "about.dataset"

    name: str = ""
    episodes: int = 0
    frames: int = 0
    exact: bool = True

    def __post_init__(self) -> None:
        if (self.episodes > 0) != (self.frames > 0) or self.frames < self.episodes:
            raise ConfigError(
                f"about.dataset: {self.episodes} episodes and {self.frames} frames do not fit; give both, or none"
            )

    def num_windows(self, *, num_frames_in_window: int, frameskip: int) -> int | None:
        """Windows in one pass over the training episodes, one from each frame that has the room; None if not known.

        Episodes count as long enough for a window, each.
        """
        if not self.episodes:
            return None
        return max(0, self.frames - self.episodes * (num_frames_in_window - 1) * frameskip)


@dataclass(frozen=True)
class RecipeAbout:
    """Where a recipe comes from.

    Attributes:
        paper: Authors, year, title and arXiv number.
        table: Table or file that the settings and results are from.
        published: Published results.
        published_time: Published training time, in words.
        dataset: The published episodes.
        ours: What this package measured with the recipe, in words; empty where it was not trained here.
        notes: What is missing, or where paper and code contradict each other.
    """

    section: ClassVar[str] = "about"

    paper: str = ""
    table: str = ""
    published: tuple[PublishedResult, ...] = ()
    published_time: str = ""
    dataset: RecipeDataset = RecipeDataset()
    ours: str = ""
    notes: tuple[str, ...] = ()


# A child is trained and judged anew: what was measured of its parent is no result of its own.
_OWN = ("published", "published_time", "ours")


def about_recipe(name: str) -> RecipeAbout:
    """What a recipe and its parents say of themselves; notes add up, results are the recipe's own.

    Raises:
        ConfigError: A recipe that cannot be read, an unknown key, or a wrong value.
    """
    merged: dict[str, Any] = {}
    notes: list[str] = []
    for each, data in recipe_family(name):
        said = data.get(ABOUT_KEY, {})
        # Built by itself, so that an error names the file that holds it.
        notes += from_dict(RecipeAbout, said, f"recipe {each}: {ABOUT_KEY}").notes
        merged = {key: value for key, value in merged.items() if key not in _OWN} | said
    return from_dict(RecipeAbout, merged | {"notes": notes}, f"recipe {name}: {ABOUT_KEY}")
