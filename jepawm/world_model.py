"""The world model: encode, predict, unroll. The one object a planner and a trainer both hold."""

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from jepawm.config.model import ModelConfig
from jepawm.encoders import build_encoder
from jepawm.errors import ConfigError
from jepawm.latent import Latent, concatenate, stack
from jepawm.nn.pose import move_pose
from jepawm.nn.precision import at_least_float32
from jepawm.predictors import CausalPredictor, build_predictor
from jepawm.predictors.base import Predicted, over_patches
from jepawm.predictors.causal import Prefix, repeat_rows
from jepawm.types import LatentSpec, Statistics

_PROPRIO_FEATURES = 16
_POSE_DIM = 7


class WorldModel(nn.Module):
    """An encoder and an action-conditioned predictor in latent space.

    Actions and proprio enter in raw units; their normalisation travels with the weights.

    Args:
        config: The architecture.
        image_size: Side of the square frames, pixels.
        frameskip: Environment steps per model step.
        statistics: Mean and standard deviation of raw actions, `[a]` each, and of proprio, `[R]` each.

    Raises:
        ConfigError: Parts that do not go together.
    """

    action_mean: Tensor
    action_std: Tensor
    proprio_mean: Tensor
    proprio_std: Tensor
    proprio_map: Tensor

    def __init__(self, config: ModelConfig, *, image_size: int, frameskip: int, statistics: Statistics) -> None:
        super().__init__()
        self.config = config
        self.image_size = image_size
        self.frameskip = frameskip
        self.action_dim = frameskip * len(statistics.action_mean)
        if config.encoder.frames_per_latent != 1:
            raise ConfigError(
                "model.encoder.tokenization 'clip' gives one latent per two frames, a world model needs one per frame; "
                "use 'frame' (each by itself) or 'duplicated'"
            )
        self.encoder = build_encoder(config.encoder, image_size)
        self.num_patches = int(self.encoder.num_patches)
        self.latent_dim = int(self.encoder.latent_dim)
        self.context_window = config.predictor.context_window
        self.uses_proprio = config.proprio.encoding != "none"
        self.proprio_dim = len(statistics.proprio_mean) if self.uses_proprio else 0
        self.proprio_encoder: nn.Linear | None = None
        proprio_width = self.proprio_dim
        self.integrates_pose = self.uses_proprio and config.proprio.update == "integrate_pose"
        self.fits_proprio = self.uses_proprio and config.proprio.update == "fit_linear"
        if self.integrates_pose:
            if (self.proprio_dim, self.action_dim) != (_POSE_DIM, _POSE_DIM):
                raise ConfigError(
                    "model.proprio.update 'integrate_pose' needs poses and action chunks of 7 numbers (position, Euler "
                    f"angles, gripper), found {self.proprio_dim} and {self.action_dim}"
                )
        elif self.uses_proprio and not self.fits_proprio:
            token = config.proprio.encoding == "token"
            proprio_width = config.predictor.token_width(self.latent_dim)
            if not token:
                proprio_width = config.proprio.dims or _PROPRIO_FEATURES
            self.proprio_encoder = nn.Linear(self.proprio_dim, proprio_width)
        self.predictor = build_predictor(
            config.predictor,
            LatentSpec(
                grid=self.encoder.grid,
                dim=self.latent_dim,
                chunk_dim=self.action_dim,
                proprio=config.proprio.encoding,
                proprio_dim=proprio_width,
            ),
        )
        for name in ("action_mean", "action_std"):
            per_chunk = np.tile(getattr(statistics, name), frameskip).astype(np.float32)
            self.register_buffer(name, torch.from_numpy(per_chunk))
        if self.uses_proprio:
            for name in ("proprio_mean", "proprio_std"):
                self.register_buffer(name, torch.from_numpy(np.array(getattr(statistics, name), dtype=np.float32)))
        if self.fits_proprio:
            # Until it is fitted, proprio stays as it is.
            stay = torch.cat([torch.eye(self.proprio_dim), torch.zeros(self.action_dim + 1, self.proprio_dim)])
            self.register_buffer("proprio_map", stay)

    def set_proprio_map(self, proprio_map: Float[Tensor, "M R"]) -> None:
        """Fixes how proprio moves on, with `model.proprio.update` fit_linear.

        Args:
            proprio_map: `[M,R]`, `M = R+A+1`: next proprio = [proprio, chunk, 1] @ map, all of them normalised.
        """
        self.proprio_map.copy_(proprio_map)

    def encode(
        self,
        pixels_BTCYX: UInt8[Tensor, "B T C Y X"] | Float[Tensor, "B T P D"],
        proprio_BTR: Float[Tensor, "B T R"] | None = None,
    ) -> Latent:
        """Encodes observations.

        Args:
            pixels_BTCYX: `[B,T,C,Y,X]` uint8, 0 to 255; or, from a feature store, what the encoder's frozen part
                (`Encoder.storable`) made of such frames: `[B,T,P,D]`, float.
            proprio_BTR: `[B,T,R]` raw proprio of the same moments; a model that sees pixels alone does not read it.

        Returns:
            Latents `[B,T]`, float32.

        Raises:
            ConfigError: Proprio that the model needs is missing or of another width.
        """
        if pixels_BTCYX.is_floating_point() and pixels_BTCYX.ndim == 4:
            return self.latent(self.encoder.from_features(pixels_BTCYX), proprio_BTR)
        return self.latent(self.encoder(pixels_BTCYX), proprio_BTR)

    def latent(
        self, visual_BTPD: Float[Tensor, "B T P D"], proprio_BTR: Float[Tensor, "B T R"] | None = None
    ) -> Latent:
        """Latents from what the encoder made of the pixels, e.g. from stored features; see `encode`."""
        return Latent(self._normalized(visual_BTPD), self.encode_proprio(proprio_BTR))

    def encode_proprio(self, proprio_BTR: Float[Tensor, "B T R"] | None) -> Float[Tensor, "B T Q E"] | None:
        """The proprio part of latents.

        Args:
            proprio_BTR: `[B,T,R]` raw proprio.

        Returns:
            `[B,T,Q,E]`: an encoding at each patch, one token, or the normalised proprio itself where it is integrated
            or moved on by a fitted map; None for a model that sees pixels alone.

        Raises:
            ConfigError: Proprio that the model needs is missing or of another width.
        """
        if not self.uses_proprio:
            return None
        found = None if proprio_BTR is None else proprio_BTR.shape[-1]
        if proprio_BTR is None or found != self.proprio_dim:
            raise ConfigError(f"the model needs proprio [B,T,R] with R = {self.proprio_dim}, found {found}")
        proprio = (proprio_BTR - self.proprio_mean) / self.proprio_std
        if self.proprio_encoder is None:
            return proprio.unsqueeze(2)
        encoded = at_least_float32(self.proprio_encoder(proprio))
        if self.config.proprio.encoding == "token":
            return encoded.unsqueeze(2)
        return over_patches(encoded, self.num_patches)

    def normalize_actions(self, actions: Float[Tensor, "*batch A"]) -> Float[Tensor, "*batch A"]:
        """Raw chunks to zero mean and unit standard deviation per raw dimension."""
        if actions.shape[-1] != self.action_dim:
            raise ConfigError(
                f"the model takes action chunks of width A = {self.action_dim} (frameskip {self.frameskip} x "
                f"{self.action_dim // self.frameskip}), found {actions.shape[-1]}"
            )
        return (actions - self.action_mean) / self.action_std

    def predict(self, latents: Latent, actions_BTA: Float[Tensor, "B T A"], *, last_only: bool = False) -> Latent:
        """Predicts the successor of every frame of a window in one pass, each from all frames up to it.

        Args:
            latents: Latents `[B,T]`.
            actions_BTA: `[B,T,A]` raw chunks; chunk `t` is executed from frame `t` on.
            last_only: Predict the last frame's successor alone.

        Returns:
            Latents `[B,T]`; entry `t` predicts frame `t + 1`. `[B,1]` with `last_only`.

        Raises:
            ConfigError: Another number of chunks than frames, or chunks of a wrong width.
        """
        if actions_BTA.shape[1] != latents.lead[1]:
            raise ConfigError(f"predict: {latents.lead[1]} frames need as many chunks, found {actions_BTA.shape[1]}")
        return self._step(latents, self.normalize_actions(actions_BTA), last_only=last_only)

    def unroll(
        self,
        context: Latent,
        actions_BHA: Float[Tensor, "B H A"],
        past_actions_BLA: Float[Tensor, "B L A"] | None = None,
    ) -> Latent:
        """Predicts `H` latents one after the other, each from the last `context_window` ones.

        Args:
            context: Observed latents `[B,T]`; the last one is the present.
            actions_BHA: `[B,H,A]` raw chunks from the present on.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames; needed when `T > 1`.

        Returns:
            Latents `[B,H]`; entry `k` is the latent after chunk `k`.

        Raises:
            ConfigError: The past actions do not fit the context, or a chunk has the wrong width.
        """
        T = _checked_context(context, past_actions_BLA)
        actions = actions_BHA if past_actions_BLA is None else torch.cat([past_actions_BLA, actions_BHA], dim=1)
        actions = self.normalize_actions(actions)
        frames = [context[:, t] for t in range(T)]
        for now in range(T - 1, T - 1 + actions_BHA.shape[1]):
            oldest = max(0, now + 1 - self.context_window)
            window = stack(frames[oldest:], axis=1)
            frames.append(self._model_step(window, actions[:, oldest : now + 1])[:, 0])
        return stack(frames[T:], axis=1)

    def unroll_candidates(
        self,
        context: Latent,
        chunks_BNHA: Float[Tensor, "B N H A"],
        past_actions_BLA: Float[Tensor, "B L A"] | None = None,
    ) -> Latent:
        """`unroll` for `N` candidate plans of each episode; the context is encoded and stored once per episode.

        Args:
            context: Observed latents `[B,T]` of each episode.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames.

        Returns:
            Predicted latents `[B,N,H]`.
        """
        B, N = chunks_BNHA.shape[:2]

        def spread(x: Tensor) -> Tensor:
            return repeat_rows(x, N)

        chunks = chunks_BNHA.flatten(0, 1)
        # While training, each window draws its own dropout; a planner that follows gradients keeps each step's inputs
        # alone and computes the step again.
        differentiated = torch.is_grad_enabled() and chunks_BNHA.requires_grad
        if isinstance(self.predictor, CausalPredictor) and not self.training and not differentiated:
            unrolled = self._unroll_growing(self.predictor, context, chunks, past_actions_BLA)
        else:
            past = None if past_actions_BLA is None else spread(past_actions_BLA)
            unrolled = self.unroll(context.map(spread), chunks, past)
        return unrolled.map(lambda part: part.unflatten(0, (B, N)))

    def step_candidates(
        self,
        context: Latent,
        virtual: Latent,
        chunks_BNHA: Float[Tensor, "B N H A"],
        past_actions_BLA: Float[Tensor, "B L A"] | None = None,
    ) -> Latent:
        """Predicts one model step from each of the given latents, all of them side by side.

        `unroll_candidates` feeds each prediction to the next step; here the latents that a step starts from are given.
        With the latents of an unroll as `virtual`, both predict the same.

        Args:
            context: Observed latents `[B,T]` of each episode; the last one is the present.
            virtual: Latents `[B,N,H-1]` that are taken for what chunks `0 ... H-2` led to.
            chunks_BNHA: `[B,N,H,A]` raw chunks.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames; needed when `T > 1`.

        Returns:
            Latents `[B,N,H]`; entry `h` is what chunk `h` leads to from the latents before it.

        Raises:
            ConfigError: The past actions do not fit the context, or another number of latents than lie between chunks.
        """
        T = _checked_context(context, past_actions_BLA)
        B, N, H = chunks_BNHA.shape[:3]
        if tuple(virtual.lead) != (B, N, H - 1):
            raise ConfigError(
                f"steps: {H} chunks need latents {[B, N, H - 1]} between them, found {list(virtual.lead)}"
            )
        chunks = chunks_BNHA.flatten(0, 1)
        if past_actions_BLA is not None:
            chunks = torch.cat([repeat_rows(past_actions_BLA, N), chunks], dim=1)
        actions = self.normalize_actions(chunks)
        seen = context.map(lambda part: repeat_rows(part, N))
        frames = concatenate([seen, virtual.map(lambda part: part.flatten(0, 1))], axis=1)
        # Windows of one length are one batch: as many passes as there are lengths, whatever the horizon.
        spans: dict[int, list[int]] = {}
        for now in range(T - 1, T - 1 + H):
            spans.setdefault(min(now + 1, self.context_window), []).append(now)
        found = []
        for length, nows in spans.items():
            index = torch.tensor([[*range(now + 1 - length, now + 1)] for now in nows], device=chunks.device)
            windows = frames.map(lambda part, index=index: part[:, index].flatten(0, 1))  # type: ignore[misc]
            step = self._step(windows, actions[:, index].flatten(0, 1), last_only=True)
            found.append(step[:, 0].map(lambda part, nows=nows: part.unflatten(0, (B, N, len(nows)))))  # type: ignore[misc]
        return concatenate(found, axis=2)

    def _model_step(self, window: Latent, actions_BTA: Tensor) -> Latent:
        """The successor of a window's last frame.

        A planner that differentiates through the unroll of a trained model keeps only the latents of each step: what a
        step computes on the way is computed again for its gradient. Memory then grows with one step, not with the plan.
        """
        if self.training or not (torch.is_grad_enabled() and actions_BTA.requires_grad):
            return self._step(window, actions_BTA, last_only=True)
        found: Latent = checkpoint(
            self._step, window, actions_BTA, last_only=True, use_reentrant=False, preserve_rng_state=False
        )
        return found

    def _unroll_growing(
        self, predictor: CausalPredictor, context: Latent, chunks: Tensor, past_actions_BLA: Tensor | None
    ) -> Latent:
        """`unroll` of `B * N` candidates in which nothing is computed twice.

        Each chunk is encoded once, though it takes part in several windows. Frames before the present are the same for
        all candidates of an episode, so they are computed once per episode. While the window grows, each step computes
        its new frame alone; a window that slides is computed anew, for every frame in it then stands elsewhere and has
        lost its oldest neighbour.

        Args:
            predictor: This model's.
            context: Observed latents `[B,T]`.
            chunks: `[B*N,H,A]` raw chunks.
            past_actions_BLA: `[B,T-1,A]` raw chunks between the context frames.

        Returns:
            Latents `[B*N,H]`.
        """
        predictor.check_shapes(context.visual, context.proprio)
        W, H = self.context_window, chunks.shape[1]
        T = min(W, _checked_context(context, past_actions_BLA))
        context = context[:, context.lead[1] - T :]
        N = len(chunks) // context.lead[0]

        def repeat(x: Tensor) -> Tensor:
            return repeat_rows(x, N)

        actions = self.normalize_actions(chunks)
        codes = predictor.encode_actions(actions)
        frames = [context[:, t].map(repeat) for t in range(T)]
        prefix: Prefix | None = None
        if T > 1 and past_actions_BLA is not None:
            past_actions = self.normalize_actions(past_actions_BLA[:, past_actions_BLA.shape[1] - (T - 1) :])
            past_codes = predictor.encode_actions(past_actions)
            before = context[:, :-1]
            _, of_episodes = predictor.extend(
                before.visual, past_codes, before.proprio, None, last_only=True, keep=True
            )
            prefix = None if of_episodes is None else of_episodes.repeat(N)
            codes = tuple(torch.cat([repeat(past), code], dim=1) for past, code in zip(past_codes, codes, strict=True))
            actions = torch.cat([repeat(past_actions), actions], dim=1)
        for now in range(T - 1, T - 1 + H):
            oldest = max(0, now + 1 - W)
            # The prefix holds the frames before the present, counted from the first one of all.
            new = now if oldest == 0 and prefix is not None else oldest
            window, span = stack(frames[new:], axis=1), slice(new, now + 1)
            predicted, prefix = predictor.extend(
                window.visual,
                tuple(code[:, span] for code in codes),
                window.proprio,
                prefix if oldest == 0 else None,
                last_only=True,
                keep=now + 1 < min(W, T - 1 + H),
            )
            frames.append(self._successor(predicted, window, actions[:, span], last_only=True)[:, 0])
        return stack(frames[T:], axis=1)

    def _step(self, window: Latent, actions_BTA: Tensor, *, last_only: bool) -> Latent:
        predicted = self.predictor(window.visual, actions_BTA, window.proprio, last_only=last_only)
        return self._successor(predicted, window, actions_BTA, last_only=last_only)

    def _successor(self, predicted: Predicted, window: Latent, actions_BTA: Tensor, *, last_only: bool) -> Latent:
        """Latents of what a predictor said of a window: normalised tokens, and the pose where it is integrated."""
        visual, proprio = predicted
        if self.integrates_pose and window.proprio is not None:
            pose, action = window.proprio, actions_BTA.unsqueeze(2)
            if last_only:
                pose, action = pose[:, -1:], action[:, -1:]
            # Poses are moved in raw units: an angle has no meaning after a division by its deviation.
            raw = move_pose(pose * self.proprio_std + self.proprio_mean, action * self.action_std + self.action_mean)
            proprio = (raw - self.proprio_mean) / self.proprio_std
        if self.fits_proprio and window.proprio is not None:
            now, action = window.proprio, actions_BTA.unsqueeze(2)
            if last_only:
                now, action = now[:, -1:], action[:, -1:]
            read = torch.cat([now, action.to(now.dtype), torch.ones_like(now[..., :1])], dim=-1)
            # Autocast would round a map that is exact.
            with torch.autocast(read.device.type, enabled=False):
                proprio = read @ self.proprio_map
        return Latent(self._normalized(visual), proprio)

    def _normalized(self, visual: Tensor) -> Tensor:
        return F.layer_norm(visual, visual.shape[-1:]) if self.config.normalize_latents else visual


def _checked_context(context: Latent, past_actions_BLA: Tensor | None) -> int:
    """Frames `T` of a context.

    Raises:
        ConfigError: Another number of past actions than lie between them.
    """
    T = context.lead[1]
    found = 0 if past_actions_BLA is None else past_actions_BLA.shape[1]
    if found != T - 1:
        raise ConfigError(f"unroll: {T} context frames need {T - 1} past action chunks between them, found {found}")
    return T
