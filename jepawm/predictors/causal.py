"""Predictors that are causal over frames: what they computed of first frames holds while the window grows."""

from abc import abstractmethod
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from jepawm.nn.attention import KeyValue
from jepawm.predictors.base import Predicted, Predictor

ActionCodes = tuple[Tensor, ...]
"""What a predictor makes of action chunks by themselves; each part is `[B,T,...]`."""


@dataclass(frozen=True)
class Prefix:
    """What a causal predictor keeps of the first frames of a window.

    Keys and values depend on a frame, its action and the frames before it, so they hold while frames are added behind.
    They do not hold once the window slides: the oldest frame is gone, and frames are numbered from the new oldest one.

    Attributes:
        keys_values: Keys and values of the frames' tokens in each block.
        num_frames: Frames `T` so far.
    """

    keys_values: tuple[KeyValue, ...]
    num_frames: int

    def repeat(self, copies: int) -> "Prefix":
        """Each row several times over: one row a candidate from one row an episode."""
        repeated = tuple((repeat_rows(k, copies), repeat_rows(v, copies)) for k, v in self.keys_values)
        return Prefix(repeated, self.num_frames)


class CausalPredictor(Predictor):
    """A predictor in which a frame sees itself and the frames before it, block after block.

    A subclass writes `encode_actions` and `extend`; whole windows (`forward`) are extended from nothing.
    """

    casts_inputs = True

    @abstractmethod
    def encode_actions(self, actions_BTA: Tensor) -> ActionCodes:
        """What is computed of action chunks alone; an unroll asks once for all of its chunks.

        Args:
            actions_BTA: `[B,T,A]` normalised chunks.
        """

    @abstractmethod
    def extend(
        self,
        visual_BTPD: Tensor,
        actions: ActionCodes,
        proprio_BTQE: Tensor | None,
        past: Prefix | None,
        *,
        last_only: bool,
        keep: bool = False,
    ) -> tuple[Predicted, Prefix | None]:
        """Predicts the successors of frames behind others.

        Args:
            visual_BTPD: `[B,T,P,D]` visual tokens of the frames behind the past ones.
            actions: What `encode_actions` made of their chunks.
            proprio_BTQE: `[B,T,Q,E]` proprio latents, for predictors that see them.
            past: What was kept of the frames before; None: the window begins here.
            last_only: Compute the last frame's successor alone.
            keep: Return what the next frames need of all frames so far.

        Returns:
            What `forward` returns, and the prefix that `keep` asks for.

        Raises:
            ConfigError: More frames than the position table holds.
        """

    def successors(
        self, visual_BTPD: Tensor, actions_BTA: Tensor, proprio_BTQE: Tensor | None, *, last_only: bool
    ) -> Predicted:
        codes = self.encode_actions(actions_BTA)
        return self.extend(visual_BTPD, codes, proprio_BTQE, None, last_only=last_only)[0]


def repeat_rows(x: Float[Tensor, "B *rest"], copies: int) -> Float[Tensor, "rows *rest"]:
    """Each row several times over, `[B*copies,...]`."""
    return x.unsqueeze(1).expand(-1, copies, *x.shape[1:]).flatten(0, 1)


def past_of(past: Prefix | None, depth: int) -> tuple[int, list[KeyValue | None]]:
    """Frames of a prefix, and its keys and values for each of `depth` blocks; 0 and None where there is no prefix."""
    if past is None:
        return 0, [None] * depth
    return past.num_frames, list(past.keys_values)
