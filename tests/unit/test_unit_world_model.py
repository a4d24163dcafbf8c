"""Encode, predict, unroll."""

import numpy as np
import pytest
import torch

from jepawm.config import EncoderConfig, ModelConfig, PredictorConfig
from jepawm.errors import ConfigError
from jepawm.predictors import MLPPredictor
from jepawm.types import Statistics
from jepawm.world_model import WorldModel

FRAMESKIP, B, H, D = 3, 4, 5, 8
STATISTICS = Statistics(
    action_mean=np.array([0.5, -2.0], np.float32),
    action_std=np.array([2.0, 0.25], np.float32),
    proprio_mean=np.zeros(2, np.float32),
    proprio_std=np.ones(2, np.float32),
)


def make_model(context_window: int = 1, image_size: int = 32) -> WorldModel:
    torch.manual_seed(0)
    config = ModelConfig(
        EncoderConfig(latent_dim=D, channels=(4, 8), kernel_sizes=(5, 3), strides=(4, 2), hidden_dim=16),
        PredictorConfig(hidden_dim=16, context_window=context_window),
    )
    return WorldModel(config, image_size=image_size, frameskip=FRAMESKIP, statistics=STATISTICS).eval()


def frames(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def normal(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# -- encode ----------------------------------------------------------------------------------------------------------


def test_encode_gives_one_float_token_per_frame() -> None:
    latents = make_model().encode(frames(B, 3, 3, 32, 32))
    assert latents.shape == (B, 3, 1, D)
    assert latents.dtype == torch.float32
    assert latents.std() > 0


def test_frames_are_encoded_by_themselves() -> None:
    model, pixels = make_model(), frames(B, 3, 3, 32, 32)
    torch.testing.assert_close(model.encode(pixels)[2:3, 1:2], model.encode(pixels[2:3, 1:2]))


def test_frames_stored_channels_last_give_the_same_latents() -> None:
    model, stored_BTYXC = make_model(), frames(B, 3, 32, 32, 3)
    view = stored_BTYXC.movedim(-1, 2)
    assert not view.is_contiguous()
    torch.testing.assert_close(model.encode(view), model.encode(view.contiguous()))


def test_black_and_white_are_minus_one_and_one() -> None:
    seen = []
    model = make_model()
    model.encoder.convolutions.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0].clone()))
    model.encode(torch.stack([torch.zeros(1, 3, 32, 32), torch.full((1, 3, 32, 32), 255)]).to(torch.uint8))
    assert seen[0][0].unique().tolist() == [-1]
    torch.testing.assert_close(seen[0][1].unique(), torch.ones(1))


@pytest.mark.parametrize("shape", [(3, 64, 64), (3, 32, 16), (1, 32, 32)])
def test_frames_of_another_size_are_refused(shape: tuple[int, int, int]) -> None:
    found = ",".join(map(str, shape))
    with pytest.raises(ConfigError, match=rf"expects frames \[C,Y,X\] = \[3,32,32\], found \[{found}\]"):
        make_model().encode(frames(B, 1, *shape))


# -- actions ---------------------------------------------------------------------------------------------------------


def test_actions_are_normalised_per_raw_dimension_in_every_slot_of_the_chunk() -> None:
    raw = normal(B, H, FRAMESKIP * 2)
    expected = (raw.numpy().reshape(B, H, FRAMESKIP, 2) - STATISTICS.action_mean) / STATISTICS.action_std
    found = make_model().normalize_actions(raw)
    np.testing.assert_allclose(found.numpy(), expected.reshape(B, H, FRAMESKIP * 2), rtol=1e-6, atol=1e-6)


def test_predict_takes_raw_actions() -> None:
    model, latents, raw = make_model(), normal(B, 2, 1, D), normal(B, 2, FRAMESKIP * 2, seed=3)
    expected = model.predictor(latents, model.normalize_actions(raw))
    torch.testing.assert_close(model.predict(latents, raw), expected)
    assert not torch.allclose(model.predict(latents, raw), model.predictor(latents, raw))


@pytest.mark.parametrize("width", [2, FRAMESKIP * 2 + 1])
def test_chunks_of_another_width_are_refused(width: int) -> None:
    message = rf"chunks of width A = 6 \(frameskip 3 x 2\), found {width}"
    with pytest.raises(ConfigError, match=message):
        make_model().unroll(normal(B, 1, 1, D), normal(B, H, width))


# -- unroll ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("context_window", [1, 3])
@pytest.mark.parametrize("observed", [1, 2, 4])
def test_unroll_is_predict_step_by_step(context_window: int, observed: int) -> None:
    model = make_model(context_window)
    latents = normal(B, observed, 1, D)
    past, actions = normal(B, observed - 1, FRAMESKIP * 2, seed=3), normal(B, H, FRAMESKIP * 2, seed=4)
    found = model.unroll(latents, actions, past if observed > 1 else None)
    assert found.shape == (B, H, 1, D)
    known, chunks = latents, torch.cat([past, actions], dim=1)
    for step in range(H):
        sees = min(known.shape[1], context_window)
        end = observed + step
        following = model.predict(known[:, -sees:], chunks[:, end - sees : end])[:, -1:]
        torch.testing.assert_close(found[:, step : step + 1], following)
        known = torch.cat([known, following], dim=1)


def test_unroll_depends_on_the_past_only_with_a_context_window() -> None:
    actions, past = normal(B, H, FRAMESKIP * 2), normal(B, 2, FRAMESKIP * 2, seed=3)
    latents = normal(B, 3, 1, D)
    changed = latents.clone()
    changed[:, 0] += 1
    for context_window, matters in ((1, False), (3, True)):
        model = make_model(context_window)
        same = torch.allclose(model.unroll(latents, actions, past), model.unroll(changed, actions, past))
        assert same is not matters
        same = torch.allclose(model.unroll(latents, actions, past), model.unroll(latents, actions, past + 1))
        assert same is not matters


def test_every_chunk_changes_what_comes_after_it_and_nothing_before() -> None:
    model, latents, actions = make_model(3), normal(B, 1, 1, D), normal(B, H, FRAMESKIP * 2)
    changed = actions.clone()
    changed[:, 2] += 1
    before, after = model.unroll(latents, actions), model.unroll(latents, changed)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert ((before - after)[:, 2:].abs().amax(dim=(2, 3)) > 1e-6).all()


@pytest.mark.parametrize(("observed", "given"), [(3, None), (3, 1), (1, 1)])
def test_past_actions_must_fit_the_context(observed: int, given: int | None) -> None:
    past = None if given is None else normal(B, given, FRAMESKIP * 2)
    message = f"{observed} context frames need {observed - 1} past action chunks between them, found {given or 0}"
    with pytest.raises(ConfigError, match=message):
        make_model(3).unroll(normal(B, observed, 1, D), normal(B, H, FRAMESKIP * 2), past)


@pytest.mark.parametrize(("context_window", "observed"), [(1, 1), (3, 1), (3, 3)])
def test_candidates_unroll_as_if_one_by_one(context_window: int, observed: int) -> None:
    model, N = make_model(context_window), 7
    latents, chunks = normal(B, observed, 1, D), normal(B, N, H, FRAMESKIP * 2, seed=3)
    past = normal(B, observed - 1, FRAMESKIP * 2, seed=4) if observed > 1 else None
    found = model.unroll_candidates(latents, chunks, past)
    assert found.shape == (B, N, H, 1, D)
    for candidate in range(N):
        torch.testing.assert_close(found[:, candidate], model.unroll(latents, chunks[:, candidate], past))


# -- the predictor's start -------------------------------------------------------------------------------------------


def test_before_the_first_frame_it_stood_still() -> None:
    config = PredictorConfig(context_window=3, hidden_dim=16)
    predictor = MLPPredictor(config, num_patches=2, latent_dim=4, action_dim=3)
    latents, actions = normal(B, 1, 2, 4), normal(B, 1, 3, seed=3)
    longer = latents.expand(-1, 3, -1, -1)
    padded = torch.cat([torch.zeros(B, 2, 3), actions], dim=1)
    torch.testing.assert_close(predictor(latents, actions)[:, 0], predictor(longer, padded)[:, -1])


def test_annotated_shapes_are_checked_in_these_tests() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        make_model().encode(torch.zeros(B, 1, 3, 32, 32))
