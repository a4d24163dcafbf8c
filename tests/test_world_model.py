"""Encode, predict, unroll; with proprio and without."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional as F

from jepawm.config import EncoderConfig, ModelConfig, PredictorConfig, ProprioConfig
from jepawm.errors import ConfigError
from jepawm.latent import Latent, concatenate, stack
from jepawm.predictors import MLPPredictor
from jepawm.types import LatentSpec, Statistics
from jepawm.world_model import WorldModel

FRAMESKIP, B, H, R, D = 3, 4, 5, 3, 12
STATISTICS = Statistics(
    action_mean=np.array([0.5, -2.0], np.float32),
    action_std=np.array([2.0, 0.25], np.float32),
    proprio_mean=np.array([3.0, -1.0, 0.0], np.float32),
    proprio_std=np.array([2.0, 0.5, 4.0], np.float32),
)
POSES = Statistics(
    action_mean=np.linspace(-0.1, 0.1, 7, dtype=np.float32),
    action_std=np.linspace(0.2, 0.4, 7, dtype=np.float32),
    proprio_mean=np.linspace(0.1, 0.5, 7, dtype=np.float32),
    proprio_std=np.linspace(0.5, 0.3, 7, dtype=np.float32),
)

CONV = EncoderConfig(latent_dim=D, channels=(4, 8), kernel_sizes=(5, 3), strides=(4, 2), hidden_dim=16)
VIT = EncoderConfig(name="vit", latent_dim=D, depth=1, num_heads=2, patch_size=16)
SMALL: dict[str, Any] = {"depth": 2, "num_heads": 2, "head_dim": 6, "mlp_dim": 16}
ADALN, FEATURE = PredictorConfig(name="adaln", **SMALL), PredictorConfig(name="feature", **SMALL)
AC = PredictorConfig(name="vjepa2_ac", **SMALL)
AS_FEATURE, AS_TOKEN = ProprioConfig("feature", dims=4), ProprioConfig("token")
POSE = ProprioConfig("token", update="integrate_pose")

PIXELS_ALONE = {
    "mlp": ModelConfig(CONV, PredictorConfig(hidden_dim=16)),
    "recurrent": ModelConfig(CONV, PredictorConfig(name="recurrent", hidden_dim=16)),
    "adaln": ModelConfig(VIT, ADALN),
    "adaln learned": ModelConfig(replace(VIT, feature="class"), replace(ADALN, position="learned", projector_dim=16)),
    "normalised": ModelConfig(VIT, ADALN, normalize_latents=True),
    "feature": ModelConfig(VIT, FEATURE),
    "vjepa2_ac": ModelConfig(VIT, AC),
}
WITH_PROPRIO = {
    "adaln, proprio feature": ModelConfig(VIT, ADALN, AS_FEATURE),
    "adaln, proprio token": ModelConfig(VIT, replace(ADALN, embed_dim=8), AS_TOKEN),
    "feature, proprio feature": ModelConfig(VIT, FEATURE, AS_FEATURE),
    "vjepa2_ac, proprio feature": ModelConfig(VIT, replace(AC, action_as="feature"), AS_FEATURE),
    "vjepa2_ac, pose": ModelConfig(VIT, AC, POSE),
}
MODELS = PIXELS_ALONE | WITH_PROPRIO


def make_model(kind: str = "mlp", context_window: int = 1, *, image_size: int = 32, **changes: Any) -> WorldModel:
    torch.manual_seed(0)
    config = MODELS[kind]
    config = replace(config, predictor=replace(config.predictor, context_window=context_window), **changes)
    poses = kind == "vjepa2_ac, pose"
    frameskip, statistics = (1, POSES) if poses else (FRAMESKIP, STATISTICS)
    model = WorldModel(config, image_size=image_size, frameskip=frameskip, statistics=statistics).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        # Weights that are not zero or tiny anywhere, so that whatever goes in shows in what comes out.
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def frames(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def normal(*shape: int, seed: int = 2) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def observed(model: WorldModel, T: int, seed: int = 2) -> Latent:
    """Latents `[B,T]` as they might have been encoded."""
    proprio = normal(B, T, model.proprio_dim, seed=seed + 100) if model.uses_proprio else None
    return model.latent(normal(B, T, model.num_patches, model.latent_dim, seed=seed), proprio)


def chunks(model: WorldModel, *lead: int, seed: int = 3) -> torch.Tensor:
    return normal(*lead, model.action_dim, seed=seed)


def assert_close(found: Latent, expected: Latent) -> None:
    torch.testing.assert_close(found.parts(), expected.parts(), rtol=1e-4, atol=1e-5)


# -- latents ---------------------------------------------------------------------------------------------------------


def latent(*lead: int, proprio: bool, seed: int = 2) -> Latent:
    return Latent(normal(*lead, 2, 5, seed=seed), normal(*lead, 1, 3, seed=seed + 50) if proprio else None)


@pytest.mark.parametrize("proprio", [False, True])
@pytest.mark.parametrize(
    "index",
    [
        1,
        -1,
        slice(1, None),
        (slice(None), 2),
        (slice(None), slice(-2, None)),
        torch.tensor([2, 0]),
        (slice(None), None),
    ],
)
def test_an_index_picks_the_same_of_both_parts(proprio: bool, index: Any) -> None:
    whole = latent(3, 4, proprio=proprio)
    picked = whole[index]
    assert torch.equal(picked.visual, whole.visual[index])
    assert picked.lead == torch.zeros(3, 4)[index].shape
    assert (picked.proprio is not None) == proprio
    if whole.proprio is not None:
        assert torch.equal(picked.proprio, whole.proprio[index])


@pytest.mark.parametrize("proprio", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_latents_are_joined_part_by_part(proprio: bool, axis: int) -> None:
    one, two = latent(3, 4, proprio=proprio), latent(3, 4, proprio=proprio, seed=7)
    stacked, concatenated = stack([one, two], axis), concatenate([one, two], axis)
    assert list(stacked.lead) == ([2, 3, 4] if axis == 0 else [3, 2, 4])
    assert list(concatenated.lead) == ([6, 4] if axis == 0 else [3, 8])
    assert set(stacked.parts()) == set(concatenated.parts()) == ({"visual", "proprio"} if proprio else {"visual"})
    for name, part in one.parts().items():
        other = two.parts()[name]
        np.testing.assert_array_equal(stacked.parts()[name].numpy(), np.stack([part, other], axis))
        np.testing.assert_array_equal(concatenated.parts()[name].numpy(), np.concatenate([part, other], axis))


@pytest.mark.parametrize("join", [stack, concatenate])
def test_latents_with_and_without_proprio_are_not_joined(join: Any) -> None:
    with pytest.raises(ValueError, match="1 of 2 latents have a proprio part; all must, or none"):
        join([Latent(normal(2, 3, 1, D)), Latent(normal(2, 3, 1, D), normal(2, 3, 1, 2))], axis=0)


def test_as_many_chunks_as_frames_are_predicted_from() -> None:
    with pytest.raises(ConfigError, match="predict: 3 frames need as many chunks, found 2"):
        make_model().predict(Latent(normal(B, 3, 1, D)), normal(B, 2, FRAMESKIP * 2))


def test_frames_taken_apart_and_stacked_are_the_window() -> None:
    whole = latent(3, 4, proprio=True)
    assert_close(stack([whole[:, t] for t in range(4)], axis=1), whole)
    assert_close(concatenate([whole[:, :1], whole[:, 1:]], axis=1), whole)


def test_mapping_a_latent_reaches_both_parts() -> None:
    whole = latent(3, 4, proprio=True)
    flat = whole.map(lambda part: 2 * part.flatten(0, 1))
    assert list(flat.lead) == [12]
    for name, part in whole.parts().items():
        assert torch.equal(flat.parts()[name], 2 * part.flatten(0, 1))
    assert latent(3, proprio=False).map(lambda part: part + 1).proprio is None


# -- encode ----------------------------------------------------------------------------------------------------------


def test_encode_gives_one_float_token_per_frame() -> None:
    latents = make_model().encode(frames(B, 3, 3, 32, 32))
    assert latents.visual.shape == (B, 3, 1, D)
    assert latents.visual.dtype == torch.float32
    assert latents.visual.std() > 0
    assert latents.proprio is None
    assert latents.lead == (B, 3)


def test_frames_are_encoded_by_themselves() -> None:
    model, pixels = make_model(), frames(B, 3, 3, 32, 32)
    assert_close(model.encode(pixels)[2:3, 1:2], model.encode(pixels[2:3, 1:2]))


def test_frames_stored_channels_last_give_the_same_latents() -> None:
    model, stored_BTYXC = make_model(), frames(B, 3, 32, 32, 3)
    view = stored_BTYXC.movedim(-1, 2)
    assert not view.is_contiguous()
    assert_close(model.encode(view), model.encode(view.contiguous()))


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


def test_an_encoder_that_merges_frames_is_refused() -> None:
    with pytest.raises(ConfigError, match="tokenization 'clip' gives one latent per two frames"):
        make_model(encoder=EncoderConfig(name="vjepa2", tokenization="clip"))


def test_a_model_without_an_encoder_takes_features() -> None:
    model = make_model("adaln", encoder=EncoderConfig(name="none", latent_dim=D, patch_size=16))
    features = normal(B, 2, 4, D)
    assert torch.equal(model.latent(features).visual, features)
    assert model.unroll(model.latent(features[:, :1]), chunks(model, B, H)).visual.shape == (B, H, 4, D)
    with pytest.raises(ConfigError, match=r"cannot encode pixels; hand its features to WorldModel.latent\(\)"):
        model.encode(frames(B, 2, 3, 32, 32))


# -- proprio ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", WITH_PROPRIO)
def test_proprio_lies_beside_the_visual_tokens(kind: str) -> None:
    model, pixels = make_model(kind), frames(B, 2, 3, 32, 32)
    raw = 3 * normal(B, 2, model.proprio_dim)
    latents = model.encode(pixels, raw)
    statistics = POSES if model.integrates_pose else STATISTICS
    normalised = torch.from_numpy((raw.numpy() - statistics.proprio_mean) / statistics.proprio_std)
    if model.proprio_encoder is None:
        expected = normalised[:, :, None]
    else:
        expected = F.linear(normalised, model.proprio_encoder.weight, model.proprio_encoder.bias)[:, :, None]
    # One row a patch where it is a feature, and one row where it is a token.
    rows = 4 if "feature" in kind.split(", ")[1] else 1
    width = {"proprio feature": 4, "proprio token": 8, "pose": 7}[kind.split(", ")[1]]
    assert latents.proprio is not None
    assert latents.proprio.shape == (B, 2, rows, width)
    torch.testing.assert_close(latents.proprio, expected.expand_as(latents.proprio), rtol=1e-5, atol=1e-5)
    assert torch.equal(latents.visual, make_model(kind).encode(pixels, raw + 1).visual)


@pytest.mark.parametrize("kind", WITH_PROPRIO)
def test_a_model_that_reads_proprio_asks_for_it(kind: str) -> None:
    model, pixels = make_model(kind), frames(B, 2, 3, 32, 32)
    width = model.proprio_dim
    for proprio, found in ((None, "None"), (normal(B, 2, width + 1), str(width + 1))):
        message = rf"the model needs proprio \[B,T,R\] with R = {width}, found {found}$"
        with pytest.raises(ConfigError, match=message):
            model.encode(pixels, proprio)
        with pytest.raises(ConfigError, match=message):
            model.latent(normal(B, 2, 4, D), proprio)


@pytest.mark.parametrize("kind", PIXELS_ALONE)
def test_a_model_of_pixels_alone_does_not_read_proprio(kind: str) -> None:
    model, pixels = make_model(kind), frames(B, 2, 3, 32, 32)
    assert model.encode(pixels, normal(B, 2, 5)).proprio is None
    assert_close(model.encode(pixels, normal(B, 2, 5)), model.encode(pixels))
    assert not any("proprio" in name for name in model.state_dict())


@pytest.mark.parametrize("kind", WITH_PROPRIO)
def test_proprio_changes_what_is_predicted(kind: str) -> None:
    model = make_model(kind)
    now, actions = observed(model, 1), chunks(model, B, H)
    other = Latent(now.visual, observed(model, 1, seed=9).proprio)
    before, after = model.unroll(now, actions), model.unroll(other, actions)
    for name, part in before.parts().items():
        assert ((part - after.parts()[name]).abs().amax(dim=(2, 3)) > 1e-5).all(), name
    changed = model.unroll(now, actions + 1)
    assert before.proprio is not None
    assert changed.proprio is not None
    # It moves on with the actions.
    assert ((before.proprio - changed.proprio).abs().amax(dim=(2, 3)) > 1e-5).all()


@pytest.mark.parametrize("kind", WITH_PROPRIO)
def test_a_latent_without_its_proprio_is_not_predicted_from(kind: str) -> None:
    model = make_model(kind)
    with pytest.raises(ConfigError, match=r"the predictor takes proprio latents .*, found None"):
        model.unroll(Latent(observed(model, 1).visual), chunks(model, B, H))
    plain = make_model("adaln")
    with pytest.raises(ConfigError, match=r"the predictor takes proprio latents .* = None, found \("):
        plain.unroll(observed(model, 1), chunks(plain, B, H))


def moved(pose: np.ndarray, action: np.ndarray) -> np.ndarray:
    """A pose after an action, by scipy: fixed axes, the action's rotation after the pose's."""
    turned = Rotation.from_euler("xyz", action[:, 3:6]) * Rotation.from_euler("xyz", pose[:, 3:6])
    gripper = np.clip(pose[:, 6:] + action[:, 6:], 0, 1)
    return np.concatenate([pose[:, :3] + action[:, :3], turned.as_euler("xyz"), gripper], axis=1)


def raw_poses(latents: Latent) -> np.ndarray:
    assert latents.proprio is not None
    return latents.proprio[:, :, 0].double().numpy() * POSES.proprio_std + POSES.proprio_mean


def test_poses_are_integrated_in_raw_units() -> None:
    model = make_model("vjepa2_ac, pose", context_window=2)
    pose, actions = 0.4 * normal(B, 1, 7), 0.3 * normal(B, H, 7, seed=4)
    # Grippers that open, close, and are pressed against both ends.
    pose[..., 6], actions[..., 6] = 0.5, torch.tensor([-0.3, -0.05, 0.05, 0.3])[:, None]
    found = raw_poses(model.unroll(model.latent(normal(B, 1, 4, D), pose), actions))
    expected, grippers = pose[:, 0].double().numpy(), []
    for step in range(H):
        expected = moved(expected, actions[:, step].double().numpy())
        np.testing.assert_allclose(found[:, step], expected, atol=1e-5)
        grippers += expected[:, 6].tolist()
    assert {0.0, 1.0} < set(grippers)
    # Whatever is seen, the pose goes its way.
    blind = model.unroll(model.latent(normal(B, 1, 4, D, seed=8), pose), actions)
    np.testing.assert_allclose(raw_poses(blind), found, atol=1e-6)


def test_predicting_a_window_integrates_the_pose_of_each_frame() -> None:
    model = make_model("vjepa2_ac, pose", context_window=3)
    pose, actions = 0.4 * normal(B, 3, 7), 0.3 * normal(B, 3, 7, seed=4)
    pose[..., 6] = 0.5
    found = raw_poses(model.predict(model.latent(normal(B, 3, 4, D), pose), actions))
    for t in range(3):
        np.testing.assert_allclose(
            found[:, t], moved(pose[:, t].double().numpy(), actions[:, t].double().numpy()), atol=1e-5
        )


@pytest.mark.parametrize(("frameskip", "statistics", "found"), [(3, STATISTICS, "3 and 6"), (2, POSES, "7 and 14")])
def test_only_poses_are_integrated(frameskip: int, statistics: Statistics, found: str) -> None:
    with pytest.raises(ConfigError, match=rf"'integrate_pose' needs poses and action chunks of 7 .*, found {found}"):
        WorldModel(MODELS["vjepa2_ac, pose"], image_size=32, frameskip=frameskip, statistics=statistics)


# -- normalised latents ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["adaln", "adaln, proprio feature"])
def test_normalised_latents_have_mean_0_and_deviation_1_wherever_they_come_from(kind: str) -> None:
    plain, model = make_model(kind, 2), make_model(kind, 2, normalize_latents=True)
    pixels = frames(B, 2, 3, 32, 32)
    proprio = normal(B, 2, R) if model.uses_proprio else None
    encoded, actions = model.encode(pixels, proprio), chunks(model, B, H)
    predicted = model.predict(encoded, actions[:, :2])
    unrolled = model.unroll(encoded[:, :1], actions)
    for made in (encoded, predicted, unrolled):
        torch.testing.assert_close(made.visual.mean(dim=-1), torch.zeros(made.visual.shape[:3]), rtol=0, atol=1e-5)
        deviation = made.visual.std(dim=-1, unbiased=False)
        torch.testing.assert_close(deviation, torch.ones_like(deviation), rtol=0, atol=1e-3)
    for made, bare in (
        (encoded, plain.encode(pixels, proprio)),
        (predicted, plain.predict(encoded, actions[:, :2])),
    ):
        # Nothing else changes; proprio stays as it is.
        assert_close(made, Latent(F.layer_norm(bare.visual, (D,)), bare.proprio))
        assert not torch.allclose(made.visual, bare.visual, atol=1e-2)


# -- actions ---------------------------------------------------------------------------------------------------------


def test_actions_are_normalised_per_raw_dimension_in_every_slot_of_the_chunk() -> None:
    raw = normal(B, H, FRAMESKIP * 2)
    expected = (raw.numpy().reshape(B, H, FRAMESKIP, 2) - STATISTICS.action_mean) / STATISTICS.action_std
    found = make_model().normalize_actions(raw)
    np.testing.assert_allclose(found.numpy(), expected.reshape(B, H, FRAMESKIP * 2), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", MODELS)
def test_predict_takes_raw_actions(kind: str) -> None:
    model = make_model(kind, context_window=2)
    latents, raw = observed(model, 2), chunks(model, B, 2)
    visual, _ = model.predictor(latents.visual, model.normalize_actions(raw), latents.proprio)
    if model.config.normalize_latents:
        visual = F.layer_norm(visual, (D,))
    torch.testing.assert_close(model.predict(latents, raw).visual, visual)
    unnormalised, _ = model.predictor(latents.visual, raw, latents.proprio)
    assert not torch.allclose(model.predict(latents, raw).visual, unnormalised)


@pytest.mark.parametrize("width", [2, FRAMESKIP * 2 + 1])
def test_chunks_of_another_width_are_refused(width: int) -> None:
    model, message = make_model(), rf"chunks of width A = 6 \(frameskip 3 x 2\), found {width}"
    with pytest.raises(ConfigError, match=message):
        model.unroll(observed(model, 1), normal(B, H, width))
    with pytest.raises(ConfigError, match=message):
        model.predict(observed(model, 1), normal(B, 1, width))


# -- unroll ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("context_window", [1, 3])
@pytest.mark.parametrize("seen", [1, 2, 4])
def test_unroll_is_predict_step_by_step(kind: str, context_window: int, seen: int) -> None:
    model = make_model(kind, context_window)
    latents, past, actions = observed(model, seen), chunks(model, B, seen - 1), chunks(model, B, H, seed=4)
    found = model.unroll(latents, actions, past if seen > 1 else None)
    assert found.visual.shape == (B, H, model.num_patches, D)
    assert (found.proprio is not None) == model.uses_proprio
    known, through = latents, torch.cat([past, actions], dim=1)
    for step in range(H):
        sees = min(known.lead[1], context_window)
        end = seen + step
        following = model.predict(known[:, -sees:], through[:, end - sees : end])[:, -1:]
        assert_close(found[:, step : step + 1], following)
        known = concatenate([known, following], axis=1)


@pytest.mark.parametrize("kind", MODELS)
def test_unroll_depends_on_the_past_only_with_a_context_window(kind: str) -> None:
    for context_window, matters in ((1, False), (3, True)):
        model = make_model(kind, context_window)
        actions, past, latents = chunks(model, B, H), chunks(model, B, 2, seed=4), observed(model, 3)
        before = model.unroll(latents, actions, past)
        other = observed(model, 3, seed=9)
        # Each part by itself: the visual tokens, and proprio where there is any.
        for name in latents.parts():
            changed = replace(
                latents, **{name: torch.cat([other.parts()[name][:, :1], latents.parts()[name][:, 1:]], 1)}
            )
            same = torch.allclose(before.visual, model.unroll(changed, actions, past).visual)
            assert same is not matters, name
        same = torch.allclose(before.visual, model.unroll(latents, actions, past + 1).visual)
        assert same is not matters


@pytest.mark.parametrize("kind", MODELS)
def test_every_chunk_changes_what_comes_after_it_and_nothing_before(kind: str) -> None:
    model = make_model(kind, 3)
    latents, actions = observed(model, 1), chunks(model, B, H)
    changed = actions.clone()
    changed[:, 2] += 1
    before, after = model.unroll(latents, actions), model.unroll(latents, changed)
    assert_close(before[:, :2], after[:, :2])
    for name, part in before.parts().items():
        assert ((part - after.parts()[name])[:, 2:].abs().amax(dim=(2, 3)) > 1e-6).all(), name


@pytest.mark.parametrize(("seen", "given"), [(3, None), (3, 1), (1, 1)])
def test_past_actions_must_fit_the_context(seen: int, given: int | None) -> None:
    model = make_model(context_window=3)
    past = None if given is None else chunks(model, B, given)
    message = f"{seen} context frames need {seen - 1} past action chunks between them, found {given or 0}"
    with pytest.raises(ConfigError, match=message):
        model.unroll(observed(model, seen), chunks(model, B, H), past)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(("context_window", "seen"), [(1, 1), (3, 1), (3, 3)])
def test_candidates_unroll_as_if_one_by_one(kind: str, context_window: int, seen: int) -> None:
    model, N = make_model(kind, context_window), 7
    latents, plans = observed(model, seen), chunks(model, B, N, H)
    past = chunks(model, B, seen - 1, seed=4) if seen > 1 else None
    found = model.unroll_candidates(latents, plans, past)
    assert found.visual.shape == (B, N, H, model.num_patches, D)
    for candidate in range(N):
        assert_close(found[:, candidate], model.unroll(latents, plans[:, candidate], past))


# -- the predictor's start -------------------------------------------------------------------------------------------


def test_before_the_first_frame_it_stood_still() -> None:
    config = PredictorConfig(context_window=3, hidden_dim=16)
    predictor = MLPPredictor(config, LatentSpec(grid=(2, 1), dim=4, chunk_dim=3))
    latents, actions = normal(B, 1, 2, 4), normal(B, 1, 3, seed=3)
    longer = latents.expand(-1, 3, -1, -1)
    padded = torch.cat([torch.zeros(B, 2, 3), actions], dim=1)
    short, long = predictor(latents, actions)[0], predictor(longer, padded)[0]
    torch.testing.assert_close(short[:, 0], long[:, -1])


def test_annotated_shapes_are_checked_in_these_tests() -> None:
    with pytest.raises(Exception, match="Type-check error"):
        make_model().encode(torch.zeros(B, 1, 3, 32, 32))
