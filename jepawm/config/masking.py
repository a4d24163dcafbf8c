"""The section `masks`: which tokens of a clip are hidden in pretraining, one dataclass for each strategy."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from jepawm.config.checks import key, not_negative, positive
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

Interval = tuple[float, float]
Unit = Literal["tubes", "tokens"]


def _interval(owner: Any, name: str, *, most: float | None = None) -> None:
    """Refuses an interval that is empty, does not lie above 0, or reaches past `most`."""
    low, high = getattr(owner, name)
    if not 0 < low <= high or (most is not None and high > most):
        expected = "0 < lowest <= highest" + (f" <= {most:g}" if most is not None else "")
        raise ConfigError(f"{key(owner, name)} must be two numbers with {expected}, found {[low, high]}")


@dataclass(frozen=True)
class BlockSetConfig:
    """One mask set of multi-block masking: blocks of one size at random places; targets are their union."""

    section: ClassVar[str] = "masks.sets"

    num_blocks: int = 8
    """Blocks of a clip; they may overlap."""
    spatial_scale: Interval = (0.15, 0.15)
    """Lowest and highest area of a block, as a share of the frame's patches."""
    temporal_scale: Interval = (1.0, 1.0)
    """Lowest and highest length of a block, as a share of the clip."""
    aspect_ratio: Interval = (0.75, 1.5)
    """Lowest and highest height over width of a block."""
    max_temporal_keep: float = 1.0
    """Share of the clip's times that the context may lie in; every token after them is a target. Below 1, targets are
    the future of the context."""
    max_keep: int | None = None
    """Tokens of the context at most; None: no bound."""
    full_complement: bool = False
    """Targets are all tokens that are not context, those that truncation took from the context included."""
    pred_full_complement: bool = False
    """The context is all tokens that are not targets, those that truncation took from the targets included."""
    inv_block: bool = False
    """Context and targets change places: the blocks are seen, and the rest is predicted."""

    def __post_init__(self) -> None:
        positive(self, "num_blocks", "max_keep")
        _interval(self, "spatial_scale", most=1)
        _interval(self, "temporal_scale", most=1)
        _interval(self, "aspect_ratio")
        if not 0 < self.max_temporal_keep <= 1:
            raise ConfigError(f"{key(self, 'max_temporal_keep')} must lie in (0, 1], found {self.max_temporal_keep}")
        if self.full_complement and self.pred_full_complement:
            raise ConfigError(f"{key(self, 'full_complement')} and pred_full_complement exclude each other")


@dataclass(frozen=True)
class ShareSetConfig:
    """One mask set of exact size: every clip has the same number of targets, and of context tokens.

    Numbers are counted in tubes, for every strategy alike: of `S` places in a frame, the context has
    `floor(S * context_share)` and the targets have `S - floor(S * (1 - target_share))`, each times the clip's length.
    """

    section: ClassVar[str] = "masks.sets"

    target_share: float = 0.9
    """Share of the clip's tokens that are targets."""
    context_share: float | None = None
    """Share of the clip's tokens that the encoder sees; None: all that are not targets. What is neither is drawn at
    random from the tokens that are not targets, and nobody sees it."""

    def __post_init__(self) -> None:
        if not 0 < self.target_share < 1:
            raise ConfigError(f"{key(self, 'target_share')} must lie in (0, 1), found {self.target_share}")
        if self.context_share is None:
            return
        if not 0 < self.context_share < 1:
            raise ConfigError(f"{key(self, 'context_share')} must lie in (0, 1), found {self.context_share}")
        # A sum such as .7 + .3 may lie a rounding error above 1.
        if self.target_share + self.context_share > 1 + 1e-9:
            raise ConfigError(
                f"{key(self, 'target_share')} {self.target_share} and context_share {self.context_share} sum to more "
                "than 1; context and targets share no token"
            )


@dataclass(frozen=True)
class AreaSetConfig(ShareSetConfig):
    """One mask set of whole-clip blocks that cover exactly the target share."""

    spatial_scale: Interval = (0.15, 0.15)
    """Lowest and highest area of a block, as a share of the frame's patches."""
    aspect_ratio: Interval = (0.75, 1.5)
    """Lowest and highest height over width of a block."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _interval(self, "spatial_scale", most=1)
        _interval(self, "aspect_ratio")


# The shares that the published multi-block sets realise on a grid of 16 x 16 in batches of 24 (docs/masking.md), so
# that strategies of exact size are compared with them, and with each other, at equal shares.
SHORT_RANGE = ShareSetConfig(target_share=0.47, context_share=0.25)
LONG_RANGE = ShareSetConfig(target_share=0.70, context_share=0.0645)


@dataclass(frozen=True)
class MaskConfig(TaggedConfig):
    """How tokens of a clip are divided into context and targets."""

    section: ClassVar[str] = "masks"
    default_kind: ClassVar[str] = "multiblock"
    kinds: ClassVar[dict[str, str]] = {
        "multiblock": "jepawm.config.masking:MultiblockMaskConfig",
        "block": "jepawm.config.masking:BlockMaskConfig",
        "tubes": "jepawm.config.masking:TubesMaskConfig",
        "tokens": "jepawm.config.masking:TokensMaskConfig",
        "motion": "jepawm.config.masking:MotionMaskConfig",
        "learned": "jepawm.config.masking:LearnedMaskConfig",
    }

    name: str = ""
    """`multiblock`: unions of blocks, as published with V-JEPA 2; `block`: the same geometry with exact shares;
    `tubes`: random places, for the whole clip; `tokens`: random tokens; `motion`: places where pixels change are hidden
    more often; `learned`: a network that is trained along chooses; `module:Class`: a dataclass of your own."""


def _sets(owner: Any) -> None:
    """Refuses an empty list of mask sets."""
    if not owner.sets:
        raise ConfigError(f"{key(owner, 'sets')} is empty; give at least one mask set")


@dataclass(frozen=True)
class MultiblockMaskConfig(MaskConfig):
    """Multi-block masking as published with V-JEPA 2."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.multiblock:MultiblockMasks"

    name: str = "multiblock"
    sets: tuple[BlockSetConfig, ...] = (BlockSetConfig(), BlockSetConfig(num_blocks=2, spatial_scale=(0.7, 0.7)))
    """Mask sets, each shown to the model in every train step."""
    cut: Literal["end", "random"] = "end"
    """Clips of a batch have unions of different size, and the longer lists are cut to the shortest. `end`: the last
    times of the clip are lost, as published; `random`: tokens drawn at random are lost."""

    def __post_init__(self) -> None:
        _sets(self)


@dataclass(frozen=True)
class BlockMaskConfig(MaskConfig):
    """Blocks over the whole clip, until they cover the target share; the last one is trimmed to fit exactly."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.block:BlockMasks"

    name: str = "block"
    sets: tuple[AreaSetConfig, ...] = (
        AreaSetConfig(SHORT_RANGE.target_share, SHORT_RANGE.context_share),
        AreaSetConfig(LONG_RANGE.target_share, LONG_RANGE.context_share, (0.7, 0.7)),
    )
    """Mask sets, each shown to the model in every train step."""

    def __post_init__(self) -> None:
        _sets(self)


@dataclass(frozen=True)
class ShareMaskConfig(MaskConfig):
    """What strategies have that draw places or tokens one by one."""

    sets: tuple[ShareSetConfig, ...] = (SHORT_RANGE, LONG_RANGE)
    """Mask sets, each shown to the model in every train step."""

    def __post_init__(self) -> None:
        _sets(self)


@dataclass(frozen=True)
class TubesMaskConfig(ShareMaskConfig):
    """Random places of the frame, hidden in the whole clip (the random tubes of V-JEPA)."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.uniform:UniformMasks"

    name: str = "tubes"

    @property
    def unit(self) -> Unit:
        """What is drawn."""
        return "tubes"


@dataclass(frozen=True)
class TokensMaskConfig(ShareMaskConfig):
    """Random tokens, each for itself."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.uniform:UniformMasks"

    name: str = "tokens"

    @property
    def unit(self) -> Unit:
        """What is drawn."""
        return "tokens"


@dataclass(frozen=True)
class MotionMaskConfig(ShareMaskConfig):
    """Places where pixels change are hidden more often."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.motion:MotionMasks"

    name: str = "motion"
    unit: Unit = "tubes"
    """`tubes`: places, by their motion in the whole clip; `tokens`: tokens, by their own motion."""
    temperature: float = 2.0
    """A place is drawn with the weight (motion / mean motion of the clip + `still_weight`) to the power of 1 over this.
    High: close to random."""
    still_weight: float = 1.0
    """Weight of a place without motion, where one with the clip's mean motion has 1 more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "temperature", "still_weight")


@dataclass(frozen=True)
class LearnedMaskConfig(ShareMaskConfig):
    """A small network scores places by the teacher's features; it is trained along by score-function gradients."""

    implementation: ClassVar[str] = "jepawm.pretraining.masks.learned:LearnedMasks"

    name: str = "learned"
    hidden_dim: int = 128
    """Width of the scorer's hidden layer."""
    credit: Literal["tube", "clip"] = "tube"
    """`tube`: each hidden place is rewarded by its own loss; `clip`: all hidden places of a clip by their mean loss,
    which has less bias and more noise."""
    start_coefficient: float = -1.0
    """Weight of the reward at the start; below 0 the scorer hides what is easy to predict."""
    end_coefficient: float = 1.0
    """Weight of the reward after the curriculum; above 0 the scorer hides what is hard to predict."""
    curriculum_fraction: float = 1.0
    """Share of the train steps over which the weight goes from the first to the second, in a straight line."""
    entropy: float = 0.01
    """Weight of the entropy bonus, which keeps scores from growing without limit."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "hidden_dim")
        not_negative(self, "entropy")
        if not 0 < self.curriculum_fraction <= 1:
            raise ConfigError(
                f"{key(self, 'curriculum_fraction')} must lie in (0, 1], found {self.curriculum_fraction}"
            )

    def coefficient(self, progress: float) -> float:
        """Weight of the reward.

        Args:
            progress: Train steps done over all train steps, 0 to 1.
        """
        share = min(1.0, progress / self.curriculum_fraction)
        return self.start_coefficient + (self.end_coefficient - self.start_coefficient) * share
