"""The section `head`: one dataclass for each kind of head, and the job that trains one on frozen latents."""

import re
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from jepawm.config.checks import fraction, not_negative, positive
from jepawm.config.tagged import TaggedConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.config.training import OptimConfig
from jepawm.errors import ConfigError

Colours = Literal["symmetric", "imagenet"]


@dataclass(frozen=True)
class HeadConfig(TaggedConfig):
    """What is read from latents: the kinds of heads."""

    section: ClassVar[str] = "head"
    default_kind: ClassVar[str] = "image"
    kinds: ClassVar[dict[str, str]] = {
        "image": "jepawm.config.head:ImageHeadConfig",
        "vqvae": "jepawm.config.head:VQVAEHeadConfig",
        "transposed_conv": "jepawm.config.head:TransposedConvHeadConfig",
        "state": "jepawm.config.head:StateHeadConfig",
        "distance": "jepawm.config.head:DistanceHeadConfig",
        "inverse_dynamics": "jepawm.config.head:InverseDynamicsHeadConfig",
        "macro": "jepawm.config.macro:MacroHeadConfig",
    }
    task: ClassVar[str]
    """`module:Class` of what trains and measures the kind, see `jepawm.training.head_tasks`."""

    name: str = ""
    """`image`, `vqvae`, `transposed_conv`: draw the frame; `state`: the simulator's state; `distance`: how many model
    steps a goal is away; `inverse_dynamics`: the action chunk that leads to a goal; `macro`: latents several model
    steps ahead, for `subgoals.name` macro; `module:Class`: a dataclass of your own."""


@dataclass(frozen=True)
class ImageHeadConfig(HeadConfig):
    """A transformer that draws frames; the published image decoders."""

    implementation: ClassVar[str] = "jepawm.heads.registry:image_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.frames:ImageTask"

    name: str = "image"
    dim: int = 256
    """Width inside; 1024 in the published decoders."""
    depth: int = 4
    """Blocks; 12 or 24 in the published decoders."""
    num_heads: int = 8
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width inside the feed-forward over `dim`."""
    patch_size: int = 8
    """Side of a patch that is drawn, pixels."""
    normalization: Colours = "imagenet"
    """How colours are normalised where the head draws them."""
    around_mean_frame: bool = False
    """Draw what differs from the mean frame of the training episodes, which is kept with the head: under a still camera
    the picture is whole from the first update. Off in the published decoders."""
    pixel_loss: Literal["l1", "l2"] = "l1"
    """Mean absolute or squared difference of colours in [0, 1]."""
    pixel_weight: float = 1.0
    """Weight of the pixel loss; the published decoders with LPIPS have l2 with weight 10."""
    lpips_weight: float = 0.0
    """Weight of LPIPS in the loss; 1 in the published decoders. Above 0, `lpips_weights` is needed."""
    lpips_network: Literal["vgg", "alex", "squeeze"] = "vgg"
    """Network whose features LPIPS compares."""
    lpips_weights: str | None = None
    """File of that network's ImageNet weights as torchvision publishes them (a path, a URL, or
    `hf://OWNER/REPO/FILE`); None: LPIPS is neither trained with nor measured."""

    def __post_init__(self) -> None:
        positive(self, "dim", "depth", "num_heads", "mlp_ratio", "patch_size", "pixel_weight")
        not_negative(self, "lpips_weight")
        if self.lpips_weight and self.lpips_weights is None:
            raise ConfigError(
                "head.lpips_weight is above 0 and head.lpips_weights is not set: LPIPS compares the features of a "
                "network that was trained on ImageNet; give its file, as torchvision publishes it"
            )


@dataclass(frozen=True)
class VQVAEHeadConfig(HeadConfig):
    """Convolutions that draw frames 16 times as large as the grid of patches, as DINO-WM does."""

    implementation: ClassVar[str] = "jepawm.heads.registry:vqvae_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.frames:VQVAETask"

    name: str = "vqvae"
    channels: int = 384
    """Channels inside."""
    num_codes: int = 2048
    """Codes of the codebook."""
    num_residual: int = 4
    """Residual blocks in each of the two stages."""
    residual_channels: int = 128
    """Channels inside a residual block."""
    quantize: bool = False
    """Put each patch through the codebook first; off in the published models."""
    commitment_weight: float = 0.25
    """Weight of the distance between patches and their codes, with `quantize`."""
    normalization: Colours = "symmetric"
    """How colours are normalised where the head draws them; its loss is their mean squared difference."""

    def __post_init__(self) -> None:
        positive(self, "channels", "num_codes", "num_residual", "residual_channels")
        not_negative(self, "commitment_weight")


@dataclass(frozen=True)
class TransposedConvHeadConfig(HeadConfig):
    """Transposed convolutions that draw frames from latents of a single token, as DINO-WM does."""

    implementation: ClassVar[str] = "jepawm.heads.registry:transposed_conv_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.frames:DecoderTask"

    name: str = "transposed_conv"
    depth: int = 64
    """Channels before the last convolution; the first has 32 times as many."""
    normalization: Colours = "symmetric"
    """How colours are normalised where the head draws them; its loss is their mean squared difference."""

    def __post_init__(self) -> None:
        positive(self, "depth")


@dataclass(frozen=True)
class StateHeadConfig(HeadConfig):
    """A transformer that reads the simulator's state."""

    implementation: ClassVar[str] = "jepawm.heads.registry:state_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.states:StateTask"

    name: str = "state"
    dim: int = 384
    """Width inside."""
    depth: int = 6
    """Blocks."""
    num_heads: int = 16
    """Attention heads."""
    mlp_ratio: float = 4.0
    """Width inside the feed-forward over `dim`."""
    units: Literal["raw", "standardised"] = "raw"
    """Of the mean absolute error that is trained: the state's own units, as published, or standard deviations of each
    number, so that no unit outweighs another. The head gives the state's own units in both cases."""

    def __post_init__(self) -> None:
        positive(self, "dim", "depth", "num_heads", "mlp_ratio")


@dataclass(frozen=True)
class PairHeadConfig(HeadConfig):
    """What heads that read two latents share: a perceptron on both, and pairs of frames that hindsight gives."""

    tokens: Literal["all", "mean"] = "all"
    """Visual part that is read: `all` patches side by side, or their `mean`, which stays small with many patches."""
    reads_proprio: bool = True
    """Read the proprio part as well, where the model has one."""
    hidden_dim: int = 512
    """Width of the hidden layers."""
    num_layers: int = 3
    """Hidden layers."""
    horizon: int = 20
    """Largest number of model steps between the two frames of a pair."""

    def __post_init__(self) -> None:
        positive(self, "hidden_dim", "num_layers", "horizon")


@dataclass(frozen=True)
class DistanceHeadConfig(PairHeadConfig):
    """How many model steps a goal is away: the learned temporal distance."""

    implementation: ClassVar[str] = "jepawm.heads.registry:distance_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.pairs:DistanceTask"

    name: str = "distance"
    quantile: float = 0.3
    """Quantile of the number of steps that is fitted. Recordings take detours, so a low one is nearer to the shortest
    way."""
    horizon: int = 10
    """Largest number of model steps between the two frames of a pair; beyond the length of the episodes, it only moves
    goals of other episodes away."""
    negative_fraction: float = 0.05
    """Share of the pairs whose goal comes from another episode; they are taken to be at least `horizon` apart. Many of
    them draw distances up where episodes cross."""

    def __post_init__(self) -> None:
        super().__post_init__()
        fraction(self, "quantile", "negative_fraction")
        positive(self, "quantile")


@dataclass(frozen=True)
class InverseDynamicsHeadConfig(PairHeadConfig):
    """The action chunk that leads from a latent towards a goal: a policy without search (GC-IDM)."""

    implementation: ClassVar[str] = "jepawm.heads.registry:goal_inverse_dynamics_head"
    task: ClassVar[str] = "jepawm.training.head_tasks.pairs:InverseDynamicsTask"

    name: str = "inverse_dynamics"


@dataclass(frozen=True)
class HeadDataConfig:
    """Episodes that a head is trained on."""

    section: ClassVar[str] = "data"

    path: str | None = None
    """The dataset; None: the one that the model was trained on. A head that draws takes any, e.g. converted videos."""
    num_episodes: int | None = None
    """Training episodes that are used, evenly spaced over the dataset; None: all of them."""
    held_out_fraction: float = 0.05
    """Share of whole episodes that measure the head, for another dataset than the model's own. Of its own dataset the
    model's held-out episodes measure it."""

    def __post_init__(self) -> None:
        positive(self, "num_episodes", "held_out_fraction")
        fraction(self, "held_out_fraction")


@dataclass(frozen=True)
class HeadTrainConfig:
    """The training of a head."""

    section: ClassVar[str] = "train"

    num_train_steps: int = 2000
    """Updates in all."""
    batch_size: int = 128
    """Frames, or pairs of frames, per update."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the head: `auto` is bfloat16 autocast where the device computes it natively, else float32."""
    log_every: int = 100
    """Train steps between two lines of metrics."""
    checkpoint_every: int = 500
    """Train steps after which the state is kept; the same command goes on from there."""
    memory_gib: float = 8.0
    """Most memory that latents and frames of the training episodes may take, GiB; more episodes are refused."""

    def __post_init__(self) -> None:
        positive(self, "num_train_steps", "batch_size", "log_every", "checkpoint_every", "memory_gib")


@dataclass(frozen=True)
class HeadJob:
    """Trains a head on the frozen latents of a world model, and measures it on held-out episodes."""

    section: ClassVar[str] = "train-head"

    model: str = ""
    """A run, or a model folder such as RUN/model."""
    save_as: str | None = None
    """Name of the head's folder, `heads/NAME` in the model folder; None: the kind's name. An older head of that name is
    replaced."""
    seed: int = 0
    """Of everything random in the training."""
    device: str = "auto"
    """`auto` (cuda, mps, cpu in this order) or a torch device."""
    head: HeadConfig = field(default_factory=HeadConfig)
    data: HeadDataConfig = field(default_factory=HeadDataConfig)
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(learning_rate=5e-4, weight_decay=0.1, grad_clip_norm=1.0)
    )
    train: HeadTrainConfig = field(default_factory=HeadTrainConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        not_negative(self, "seed")
        if self.save_as is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", self.save_as):
            raise ConfigError(
                f"save_as must be a folder's name of letters, digits, '_', '-' and '.', found '{self.save_as}'"
            )

    @property
    def folder_name(self) -> str:
        """Name of the head's folder."""
        return self.save_as or self.head.name.rpartition(":")[2]
