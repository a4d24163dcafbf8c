"""The section `loss`: one dataclass for each way of supervising predictions, over the terms that all of them share."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.config.tagged import TaggedConfig
from jepawm.errors import ConfigError

Targets = Literal["trained", "detached"]


@dataclass(frozen=True)
class DistanceConfig:
    """How a predicted latent is compared with the true one: a weighted sum of distances."""

    section: ClassVar[str] = "loss.distance"

    l2: float = 1.0
    """Mean squared difference."""
    l1: float = 0.0
    """Mean absolute difference."""
    cosine: float = 0.0
    """Minus the mean cosine of predicted and true tokens."""
    smooth_l1: float = 0.0
    """Mean of half the squared difference where it is below 1, else of the absolute difference less one half."""

    def __post_init__(self) -> None:
        not_negative(self, "l2", "l1", "cosine", "smooth_l1")
        if not (self.l2 or self.l1 or self.cosine or self.smooth_l1):
            raise ConfigError("loss.distance: every weight is 0; give l2, l1, cosine or smooth_l1 a weight")


@dataclass(frozen=True)
class AdversarialConfig:
    """A perturbation of what the predictor is given, against its loss; targets stay as they are."""

    section: ClassVar[str] = "loss.adversarial"

    visual: float = 0.0
    """Largest change of a number of the visual latent, in standard deviations of the batch's visual latents."""
    proprio: float = 0.0
    """The same of the proprio latent."""
    action: float = 0.0
    """Largest change of a number of an action, in standard deviations of the data's actions."""
    step: float = 1.25
    """Length of the one step along the sign of the gradient, as a share of the largest change."""

    def __post_init__(self) -> None:
        not_negative(self, "visual", "proprio", "action")
        positive(self, "step")

    @property
    def active(self) -> bool:
        """Whether anything is perturbed."""
        return bool(self.visual or self.proprio or self.action)


@dataclass(frozen=True)
class LossConfig(TaggedConfig):
    """The training loss: how predictions are supervised, and the weights of its terms; a weight of 0 leaves one out."""

    section: ClassVar[str] = "loss"
    default_kind: ClassVar[str] = "unroll"
    kinds: ClassVar[dict[str, str]] = {
        "unroll": "jepawm.config.loss:UnrollLossConfig",
        "teacher_forcing": "jepawm.config.loss:TeacherForcingLossConfig",
        "rollout": "jepawm.config.loss:RolloutLossConfig",
        "dino_wm": "jepawm.config.loss:DINOWMLossConfig",
    }

    name: str = ""
    """How predictions are supervised. `unroll`: windows are unrolled from their first frame; `teacher_forcing`: each
    frame is predicted from the true ones before it, in one pass; `rollout`: teacher forcing and unrolls of a few steps
    (JEPA-WMs, V-JEPA 2-AC); `dino_wm`: teacher forcing with one mean over all features, against targets without a
    gradient; `module:Class`: a dataclass of your own that extends one of these."""
    distance: DistanceConfig = field(default_factory=DistanceConfig)
    prediction: float = 1.0
    """Distance of the predicted visual latents from the encoded ones."""
    proprio_prediction: float = 1.0
    """The same for the proprio part of the latents, in models that have one."""
    adversarial: AdversarialConfig = field(default_factory=AdversarialConfig)
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
    straightening: float = 0.0
    """1 minus the cosine between successive differences of each token: latents move in straight lines."""
    sigreg: float = 0.0
    """Sketched isotropic Gaussian regularisation (LeWM's anti-collapse term)."""
    sigreg_num_projections: int = 256
    """Random directions a step that SIGReg tests."""

    @property
    def window_frames(self) -> int:
        """Frames that a window needs at least."""
        return 2

    @property
    def detaches_targets(self) -> bool:
        """Whether targets have no gradient, which keeps an encoder that trains from collapsing at once."""
        return False

    @property
    def has_batch_statistics(self) -> bool:
        """Whether a term is a statistic of the whole batch, which no part of the batch can compute."""
        return bool(self.variance or self.covariance or self.sigreg)

    def __post_init__(self) -> None:
        not_negative(self, "inverse_dynamics", "variance", "covariance", "time_similarity", "sigreg")
        not_negative(self, "proprio_prediction", "temporal_variance", "straightening")
        positive(self, "prediction", "sigreg_num_projections")


@dataclass(frozen=True)
class UnrollLossConfig(LossConfig):
    """Windows are unrolled from their first frame, with the gradient through all steps."""

    name: str = "unroll"
    targets: Targets = "trained"
    """`trained`: the true latents get a gradient as well; `detached`: they do not."""

    @property
    def detaches_targets(self) -> bool:
        """Whether targets have no gradient."""
        return self.targets == "detached"


@dataclass(frozen=True)
class TeacherForcingLossConfig(LossConfig):
    """Each frame is predicted from the true frames before it, in one pass."""

    name: str = "teacher_forcing"
    targets: Targets = "trained"
    """`trained`: the true latents get a gradient as well; `detached`: they do not."""

    @property
    def detaches_targets(self) -> bool:
        """Whether targets have no gradient."""
        return self.targets == "detached"


@dataclass(frozen=True)
class DINOWMLossConfig(LossConfig):
    """Teacher forcing with one mean over the visual and proprio features together, targets detached (DINO-WM)."""

    name: str = "dino_wm"

    @property
    def detaches_targets(self) -> bool:
        """Whether targets have no gradient."""
        return True


@dataclass(frozen=True)
class RolloutLossConfig(LossConfig):
    """Teacher forcing over the window, and unrolls of `rollout_steps` steps from frames inside it.

    With `L_1` the distance under teacher forcing and `L_k` that of the k-th step of an unroll, the loss is a weighted
    sum of `L_1` to `L_K`. Targets of unrolls have no gradient; those of `L_1` have, as published.
    """

    name: str = "rollout"
    rollout_steps: int = 2
    """Steps K of an unroll; its first step is the one under teacher forcing. 1: teacher forcing alone."""
    weighting: Literal["published", "normalised", "vjepa2_ac"] = "published"
    """`published`: L_1 / (K + 1) + (L_2 + ... + L_K) / K, as JEPA-WMs compute it; `normalised`: each 1 / K, so that the
    weights sum to 1; `vjepa2_ac`: L_1 plus the mean over all K steps of the unroll, as V-JEPA 2-AC computes it."""
    prefixes: Literal["random", "first", "all"] = "random"
    """Where unrolls begin: one random frame per train step, the first frame, or every frame (their mean)."""
    rollout_window: int = 3
    """Frames that the predictor sees at most in an unroll."""
    backpropagation: Literal["truncated", "full"] = "truncated"
    """`truncated`: each step's input has no gradient, so that it trains one call of the predictor and the actions;
    `full`: the gradient runs through all steps."""
    rollout_proprio: Literal["predicted", "true"] = "predicted"
    """Proprio that an unroll goes on from. With `true` its proprio is no prediction: the distance is that of the true
    proprio to itself."""
    sequential: bool = True
    """Unrolls from a prefix, as above."""
    parallel: bool = False
    """Unrolls of every position at once: the predictions of one pass are the input of the next."""
    parallel_actions: Literal["aligned", "published"] = "aligned"
    """`aligned`: each input has the action of the frame that it stands for; `published`: that of k - 1 frames earlier,
    as the published code pairs them."""
    true_frame_probability: float = 0.0
    """Scheduled sampling in parallel unrolls: share of inputs that are the true frame."""
    true_frame_steps: int | None = None
    """Train steps over which that share falls linearly to 0; None: it stays."""

    @property
    def window_frames(self) -> int:
        """Frames that a window needs at least."""
        return self.rollout_steps + 1 if self.rollout_steps > 1 else 2

    @property
    def detaches_targets(self) -> bool:
        """Whether targets have no gradient; those under teacher forcing have."""
        return False

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(self, "rollout_steps", "rollout_window", "true_frame_steps")
        fraction(self, "true_frame_probability")
        if self.rollout_steps > 1 and not (self.sequential or self.parallel):
            raise ConfigError(
                f"loss.rollout_steps is {self.rollout_steps}, and neither loss.sequential nor loss.parallel is on; "
                "switch one on, or set loss.rollout_steps to 1"
            )
        if self.weighting == "vjepa2_ac" and self.parallel:
            raise ConfigError("loss.weighting 'vjepa2_ac' weighs sequential unrolls only; switch loss.parallel off")
        if self.parallel and self.rollout_proprio == "true":
            raise ConfigError("loss.rollout_proprio 'true' is for sequential unrolls; switch loss.parallel off")
        if self.true_frame_probability and not self.parallel:
            raise ConfigError("loss.true_frame_probability has no meaning without loss.parallel")

    def true_frames(self, train_step: int) -> float:
        """Share of inputs of a parallel unroll that are the true frame, in one train step."""
        if self.true_frame_steps is None:
            return self.true_frame_probability
        return self.true_frame_probability * max(0.0, 1 - train_step / self.true_frame_steps)
