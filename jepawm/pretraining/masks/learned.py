"""Learned masks: a small network chooses what is hidden, and is rewarded by how hard that is to predict."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from jepawm.config.masking import LearnedMaskConfig
from jepawm.errors import ConfigError
from jepawm.nn.collectives import num_workers, sum_over_workers
from jepawm.nn.mlp import mlp
from jepawm.pretraining.masks.base import Cue, Cues, MaskSet, MaskStrategy, TokenGrid
from jepawm.pretraining.masks.probability import inclusion_probabilities, log_probability_of_set
from jepawm.pretraining.masks.sampling import draw_share


@dataclass(frozen=True)
class DrawnGroup:
    """A group of clips of equal length, under the masks that were drawn for it.

    Attributes:
        grid: Tokens of a clip.
        sets: What `draw` returned.
        token_losses: One `[B,M]` a set: the loss of each target, in the order of `target_BM`.
        features_BLD: `[B,L,D]` the teacher's tokens that `draw` saw.
    """

    grid: TokenGrid
    sets: tuple[MaskSet, ...]
    token_losses: tuple[Tensor, ...]
    features_BLD: Float[Tensor, "B L D"]


@dataclass(frozen=True)
class ScorerTerms:
    """The scorer's loss of one train step, and what to log of it.

    Attributes:
        loss: Scalar; its gradient, averaged over workers, is that of the whole batch.
        coefficient: Weight of the reward in this step: below 0 helping, above 0 adversarial.
        entropy: How even the scores of this worker's clips are: 1 all equal, 0 all weight on one place.
        mean_loss: Mean loss of the whole batch's targets, the baseline, averaged over mask sets.
    """

    loss: Float[Tensor, ""]
    coefficient: float
    entropy: float
    mean_loss: float

    def to_dict(self) -> dict[str, float]:
        """Numbers by name, for a log."""
        return {
            "loss": self.loss.item(),
            "coefficient": self.coefficient,
            "entropy": self.entropy,
            "mean_loss": self.mean_loss,
        }


class LearnedMasks(MaskStrategy):
    """Places are hidden for the whole clip, drawn without replacement by weights `exp(score)`.

    The score of a place is a two-layer perceptron's, of the teacher's features averaged over time, and of how far they
    move from one time to the next. The last layer starts at 0, so training starts with random tubes.

    Reference: Bandara et al. 2023, AdaMAE, arXiv 2211.09120 (score-function gradient); Madan et al. 2024, CL-MAE,
    arXiv 2308.16572 (curriculum). The estimators here are those of draws without replacement; see `scorer_loss`.
    """

    needs: frozenset[Cue] = frozenset({"features"})
    config: LearnedMaskConfig

    def __init__(self, config: LearnedMaskConfig, latent_dim: int) -> None:
        super().__init__(config, latent_dim)
        self.latent_dim = latent_dim
        self.scorer = mlp(latent_dim + 1, config.hidden_dim, 1, 1)
        last = self.scorer[-1]
        assert isinstance(last, nn.Linear)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)

    def scores(self, features_BLD: Float[Tensor, "B L D"], grid: TokenGrid) -> Float[Tensor, "B S"]:
        """Scores of all places.

        Args:
            features_BLD: `[B,L,D]` the teacher's normalised tokens; no gradient flows into them.
            grid: Tokens of a clip.

        Returns:
            `[B,S]` float32 logarithms of weights.

        Raises:
            ConfigError: Tokens that do not fit the grid or the width.
        """
        expected = (grid.num_tokens, self.latent_dim)
        if tuple(features_BLD.shape[1:]) != expected:
            raise ConfigError(
                f"masks.name 'learned': expected {expected[0]} tokens of width {expected[1]}, "
                f"found {tuple(features_BLD.shape[1:])}"
            )
        with torch.autocast(features_BLD.device.type, enabled=False):
            z_BTSD = features_BLD.detach().float().view(-1, grid.times, grid.num_places, self.latent_dim)
            # Root mean square over features, so that the number does not grow with the width.
            change_BTS = (z_BTSD[:, 1:] - z_BTSD[:, :-1]).square().mean(-1).sqrt()
            motion_BS = change_BTS.sum(1) / max(1, grid.times - 1)
            scores_BS1: Tensor = self.scorer(torch.cat([z_BTSD.mean(1), motion_BS[:, :, None]], dim=-1))
            return scores_BS1[:, :, 0]

    @torch.no_grad()
    def draw(
        self,
        grid: TokenGrid,
        *,
        num_clips: int,
        rows: slice,
        counter: int,
        generator: torch.Generator,
        cues: Cues,
    ) -> tuple[MaskSet, ...]:
        if cues.features_BLD is None:
            raise ConfigError("masks.name 'learned' needs the teacher's tokens; give Cues(features_BLD=...)")
        logits_BS = self.scores(cues.features_BLD, grid)
        return tuple(
            draw_share(share, grid, logits_BS, unit="tubes", num_clips=num_clips, rows=rows, generator=generator)
            for share in self.config.sets
        )

    def scorer_loss(self, groups: Sequence[DrawnGroup], progress: float) -> ScorerTerms:
        """What the scorer minimises, `-coefficient * reward - entropy * evenness`; the gradient reaches it alone.

        With `A` the loss less the batch's mean of the mask set, in standard deviations of the batch, without
        gradient, the reward is, averaged over clips and mask sets:

        * `credit: clip`: `log P(S) * A`, with the exact probability of the set `S` of hidden places, and `A` of their
          mean loss. This is the score-function estimator: its expected gradient is that of the expected mean loss, but
          for the part that a clip's own loss has in the batch's mean.
        * `credit: tube`: `mean over i in S of log pi_i * A_i`, with `pi_i` the probability that place `i` is hidden. A
          place answers for its own loss only, which has less noise, and treats that loss as independent of the other
          hidden places; `pi_i` is right in the limit of many places.

        Every worker calls this once in a train step, with or without clips, because the batch's mean is summed over
        workers.

        Args:
            groups: All groups of this worker's clips.
            progress: Train steps done over all train steps, 0 to 1.

        Raises:
            ConfigError: Losses that do not belong to the masks.
        """
        tubes = [[_tube_losses(group, at) for at in range(self.num_sets)] for group in groups]
        units = [[one if self.config.credit == "tube" else one.mean(1) for one in losses] for losses in tubes]
        mean_S, deviation_S, clips_S = self._baseline(units)
        coefficient = self.config.coefficient(progress)
        # A worker without clips still has a gradient, of 0.
        loss = sum((parameter.sum().cpu() * 0.0 for parameter in self.parameters()), torch.zeros(())).double()
        evenness: list[Tensor] = []
        for group, losses in zip(groups, units, strict=True):
            # Small tensors in float64 and many short operations: the processor is the place for them.
            scores_BS = self.scores(group.features_BLD, group.grid).cpu()
            entropy_B = _evenness(scores_BS)
            evenness.append(entropy_B.detach())
            for at, (drawn, one) in enumerate(zip(group.sets, losses, strict=True)):
                places_BK = _places(drawn, group.grid)
                # Losses that are all alike tell nothing, and their deviation is rounding.
                advantage = (one.double() - mean_S[at]) / deviation_S[at].clamp(min=1e-6)
                if self.config.credit == "tube":
                    log_pi_BS = inclusion_probabilities(scores_BS, places_BK.shape[1]).clamp(min=1e-300).log()
                    reward_B = (log_pi_BS.gather(1, places_BK) * advantage).mean(1)
                else:
                    drawn_BS = torch.zeros_like(scores_BS, dtype=torch.bool).scatter_(1, places_BK, True)
                    reward_B = log_probability_of_set(scores_BS, drawn_BS) * advantage
                terms_B = -coefficient * reward_B - self.config.entropy * entropy_B
                # Over the whole batch's clips; workers' gradients are averaged afterwards.
                loss = loss + terms_B.sum() * num_workers() / (clips_S[at] * self.num_sets)
        entropy = torch.cat(evenness).mean().item() if evenness else float("nan")
        return ScorerTerms(loss.float(), coefficient, entropy, mean_S.mean().item())

    def _baseline(self, units: list[list[Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of each mask set's losses, and the number of clips, over all workers.

        Args:
            units: For each group and mask set the losses of tubes `[B,K]`, or of clips `[B]`, float64.
        """
        moments_S4 = torch.zeros(self.num_sets, 4, dtype=torch.float64)
        for losses in units:
            for at, one in enumerate(losses):
                moments_S4[at] += torch.stack(
                    [torch.tensor(float(len(one))), torch.tensor(float(one.numel())), one.sum(), one.square().sum()]
                )
        if num_workers() > 1:
            # The process group may work on accelerators alone.
            moments_S4 = sum_over_workers(moments_S4.to(next(self.parameters()).device)).cpu()
        clips_S, count_S, sum_S, square_S = moments_S4.unbind(1)
        mean_S = sum_S / count_S.clamp(min=1)
        return mean_S, (square_S / count_S.clamp(min=1) - mean_S.square()).clamp(min=0).sqrt(), clips_S


def _places(drawn: MaskSet, grid: TokenGrid) -> Int[Tensor, "B K"]:
    """`[B,K]` hidden places of a frame; targets are tubes, so those of the first time are all of them."""
    return drawn.target_BM[:, : drawn.target_BM.shape[1] // grid.times].cpu()


def _tube_losses(group: DrawnGroup, at: int) -> Float[Tensor, "B K"]:
    """`[B,K]` float64 loss of each hidden place in one mask set, averaged over time, without gradient."""
    target_BM, loss_BM = group.sets[at].target_BM, group.token_losses[at]
    if loss_BM.shape != target_BM.shape:
        raise ConfigError(
            f"token_losses[{at}] must have the shape of target_BM, {tuple(target_BM.shape)}, "
            f"found {tuple(loss_BM.shape)}"
        )
    times = group.grid.times
    return loss_BM.detach().cpu().double().view(len(loss_BM), times, loss_BM.shape[1] // times).mean(1)


def _evenness(scores_BS: Float[Tensor, "B S"]) -> Float[Tensor, " B"]:
    """`[B]` float64 entropy of the first draw over that of an even one, 0 to 1."""
    log_p_BS = scores_BS.double().log_softmax(1)
    return -(log_p_BS.exp() * log_p_BS).sum(1) / torch.tensor(float(scores_BS.shape[1])).log()
