"""What every predictor does alike: shapes, causality, the last frame alone, and the mistakes it names."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from jepawm.config import ModelConfig, PredictorConfig, ProprioConfig
from jepawm.config.predictor import ProprioEncoding
from jepawm.errors import ConfigError
from jepawm.predictors import Predictor, build_predictor
from jepawm.types import LatentSpec

B, T, P, D, A = 2, 4, 6, 12, 3
GRID = (2, 3)


class Case(NamedTuple):
    keys: dict[str, Any]
    proprio: ProprioEncoding = "none"
    proprio_dim: int = 0
    predicts_proprio: bool = False


ADALN = {"name": "adaln", "depth": 2, "num_heads": 2}
LEWM = {"position": "learned", "num_positions": 5, "action_dims": 7, "head_dim": 5, "dropout": 0.1}
FEATURE = {"name": "feature", "depth": 2, "num_heads": 2, "mlp_dim": 24, "num_positions": 5, "dropout": 0.1}
TOKENS = {"name": "vjepa2_ac", "depth": 2, "num_heads": 2}
FEATURE_TOKENS = TOKENS | {"action_as": "feature", "action_dims": 4}
CASES = {
    "mlp": Case({"name": "mlp", "hidden_dim": 16}),
    "mlp-token": Case({"name": "mlp", "hidden_dim": 16}, "token", 3),
    "recurrent": Case({"name": "recurrent", "hidden_dim": 16}),
    "adaln": Case(ADALN),
    "adaln-narrow": Case(ADALN | {"embed_dim": 14, "mlp_dim": 20, "qkv_bias": False, "rotary_pairing": "corrected"}),
    "adaln-feature": Case(ADALN, "feature", 4, True),
    "adaln-token": Case(ADALN, "token", 12, True),
    "adaln-learned": Case(ADALN | LEWM | {"input_projection": False}),
    "adaln-learned-feature": Case(ADALN | LEWM, "feature", 4, True),
    "adaln-learned-token": Case(ADALN | LEWM | {"embed_dim": 8}, "token", 8, True),
    "adaln-projector": Case(ADALN | LEWM | {"projector_dim": 10}),
    "feature": Case(FEATURE),
    "feature-feature": Case(FEATURE | {"action_dims": 4}, "feature", 4, True),
    "vjepa2_ac": Case(TOKENS),
    "vjepa2_ac-token": Case(TOKENS | {"embed_dim": 14}, "token", 7),
    "vjepa2_ac-as-feature": Case(FEATURE_TOKENS),
    "vjepa2_ac-as-feature-feature": Case(FEATURE_TOKENS | {"embed_dim": 8}, "feature", 4, True),
}
every = pytest.mark.parametrize("name", CASES)


def build(name: str, **keys: Any) -> Predictor:
    case = CASES[name]
    torch.manual_seed(0)
    config = PredictorConfig(**({"context_window": T} | case.keys | keys))
    predictor = build_predictor(config, LatentSpec(GRID, D, A, case.proprio, case.proprio_dim))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return predictor


def inputs(name: str, frames: int = T, seed: int = 2) -> tuple[Tensor, Tensor, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    case = CASES[name]
    tokens = {"none": 0, "token": 1, "feature": P}[case.proprio]
    visual = torch.randn(B, frames, P, D, generator=generator)
    actions = torch.randn(B, frames, A, generator=generator)
    proprio = torch.randn(B, frames, tokens, case.proprio_dim, generator=generator) if tokens else None
    return visual, actions, proprio


def outputs(name: str, predictor: Predictor, *given: Tensor | None, **keys: Any) -> list[Tensor]:
    visual, proprio = predictor(*given, **keys)  # type: ignore[arg-type]
    assert (proprio is not None) == CASES[name].predicts_proprio
    return [visual] if proprio is None else [visual, proprio]


@every
@pytest.mark.parametrize("frames", [1, 3])
def test_each_frame_has_a_successor_of_its_own_shape(name: str, frames: int) -> None:
    predictor = build(name)
    assert predictor.context_window == T
    given = inputs(name, frames)
    found = outputs(name, predictor, *given)
    shapes = [given[0].shape] + ([given[2].shape] if CASES[name].predicts_proprio and given[2] is not None else [])
    assert [out.shape for out in found] == shapes
    assert all(out.dtype == torch.float32 for out in found)


@every
@pytest.mark.parametrize("frames", [1, 4])
def test_the_last_frame_alone_is_the_last_of_all(name: str, frames: int) -> None:
    predictor, given = build(name).eval(), inputs(name, frames)
    full = outputs(name, predictor, *given)
    alone = outputs(name, predictor, *given, last_only=True)
    torch.testing.assert_close(alone, [out[:, -1:] for out in full], rtol=1e-4, atol=1e-5)


@every
def test_a_prediction_stands_on_what_came_before(name: str) -> None:
    """Frame, action and proprio `t` change the predictions from `t` on, and none before."""
    predictor, given = build(name).eval(), inputs(name)
    before, others = outputs(name, predictor, *given), inputs(name, seed=3)
    for which, value in enumerate(given):
        for t in range(T if value is not None else 0):
            changed = list(given)
            changed[which] = given[which].clone()  # type: ignore[union-attr]
            changed[which][:, t] = others[which][:, t]  # type: ignore[index]
            after = outputs(name, predictor, *changed)
            moved = [(new - old).abs().amax(dim=(0, 2, 3)) for new, old in zip(after, before, strict=True)]
            for amounts in moved:
                assert (amounts[:t] < 1e-6).all(), (which, t)
                assert (amounts[t:] > 1e-6).all(), (which, t)


@every
def test_episodes_of_a_batch_do_not_mix(name: str) -> None:
    predictor, given = build(name).eval(), inputs(name)
    both = outputs(name, predictor, *given)
    second = outputs(name, predictor, *(None if value is None else value[1:] for value in given))
    torch.testing.assert_close(second, [out[1:] for out in both], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("last_only", [False, True])
def test_every_parameter_gets_a_gradient(name: str, last_only: bool) -> None:
    keys = {"num_positions": T} if "num_positions" in CASES[name].keys else {}
    predictor, given = build(name, **keys), inputs(name)
    sum(out.square().sum() for out in outputs(name, predictor, *given, last_only=last_only)).backward()  # type: ignore[union-attr]
    for key, parameter in predictor.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key
        assert (parameter.grad != 0).any(), key


@every
def test_bfloat16_comes_back_as_float32_and_near(name: str) -> None:
    predictor, given = build(name).eval(), inputs(name)
    exact = outputs(name, predictor, *given)
    with torch.autocast("cpu", torch.bfloat16):
        near = outputs(name, predictor, *given)
    for rough, precise in zip(near, exact, strict=True):
        assert rough.dtype == torch.float32
        assert 0 < (rough - precise).abs().max() < 0.05 * precise.abs().max()


@pytest.mark.parametrize("name", ["mlp", "recurrent"])
def test_vectors_are_predicted_as_differences(name: str) -> None:
    predictor, (visual, actions, _) = build(name), inputs(name)
    last: Any = predictor.residual if name == "recurrent" else predictor.residual[-1]  # type: ignore[index]
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    assert torch.equal(predictor(visual, actions)[0], visual)


def test_the_perceptron_sees_its_window_and_repeats_the_oldest_frame() -> None:
    predictor, (visual, actions, _) = build("mlp", context_window=2), inputs("mlp")
    found, _ = predictor(visual, actions)
    for t in range(T):
        before = visual[:, max(t - 1, 0)].flatten(1)
        action_before = actions[:, t - 1] if t else torch.zeros(B, A)
        row = torch.cat([before, action_before, visual[:, t].flatten(1), actions[:, t]], dim=-1)
        expected = visual[:, t] + predictor.residual(row).view(B, P, D)  # type: ignore[operator]
        torch.testing.assert_close(found[:, t], expected)


@pytest.mark.parametrize("name", ["adaln-token", "adaln-feature"])
def test_with_identity_blocks_each_token_leaves_from_its_own_place(name: str) -> None:
    """Proprio comes back as the last normalisation leaves it, visual tokens through the output layer too."""
    predictor, given = build(name, modulation_std=0.0), inputs(name)
    visual, actions, proprio = given
    assert proprio is not None
    for block in predictor.blocks:  # type: ignore[union-attr]
        nn.init.zeros_(block.modulation.weight)  # type: ignore[union-attr, arg-type]
        nn.init.zeros_(block.modulation.bias)  # type: ignore[union-attr, arg-type]
    embed, norm, project = (getattr(predictor, layer) for layer in ("embed", "norm", "project"))
    if name == "adaln-token":
        expected = project(norm(embed(visual))), norm(proprio)
    else:
        out = norm(torch.cat([embed(visual), proprio], dim=-1))
        expected = project(out[..., :D]), out[..., D:]
    torch.testing.assert_close(predictor(visual, actions, proprio), expected)


# -- mistakes --------------------------------------------------------------------------------------------------------


@every
def test_visual_latents_of_another_shape_are_refused(name: str) -> None:
    predictor, (visual, actions, proprio) = build(name), inputs(name)
    for wrong, shape in ((visual[..., :-1], "6, 11"), (visual[:, :, :-1], "5, 12")):
        with pytest.raises(ConfigError, match=rf"visual latents \[B,T,P,D\] with P, D = 6, 12, found \({shape}\)"):
            predictor(wrong, actions, proprio)


@every
def test_proprio_that_is_missing_unwanted_or_of_another_shape_is_refused(name: str) -> None:
    predictor, (visual, actions, proprio) = build(name), inputs(name)
    if proprio is None:
        with pytest.raises(ConfigError, match=r"proprio latents .* Q, E = None, found \(1, 5\)"):
            predictor(visual, actions, torch.zeros(B, T, 1, 5))
        return
    tokens, width = proprio.shape[2:]
    with pytest.raises(ConfigError, match=rf"Q, E = \({tokens}, {width}\), found None"):
        predictor(visual, actions)
    with pytest.raises(ConfigError, match=rf"found \({tokens}, {width + 1}\)"):
        predictor(visual, actions, torch.zeros(B, T, tokens, width + 1))
    with pytest.raises(ConfigError, match=rf"found \({tokens + 1}, {width}\)"):
        predictor(visual, actions, torch.zeros(B, T, tokens + 1, width))


@pytest.mark.parametrize("name", ["adaln-learned", "adaln-learned-token", "feature", "feature-feature"])
@pytest.mark.parametrize("num_positions", [None, T + 1])
def test_a_window_longer_than_the_position_table_is_refused(name: str, num_positions: int | None) -> None:
    predictor = build(name, num_positions=num_positions)
    frames = num_positions or T
    predictor(*inputs(name, frames))
    with pytest.raises(
        ConfigError, match=rf"window of {frames + 1} frames .* table \({frames}\); raise .*num_positions"
    ):
        predictor(*inputs(name, frames + 1))


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "adaln",
            {"num_heads": 5},
            "12 channels .* do not divide into 5 heads; change num_heads or these",
        ),
        ("adaln-feature", {"num_heads": 3}, "16 channels"),
        ("adaln", {"embed_dim": 8, "num_heads": 3}, "8 channels"),
        ("vjepa2_ac", {"num_heads": 5}, "12 channels .* do not divide into 5 heads"),
        ("vjepa2_ac-as-feature", {"num_heads": 3, "action_dims": 4}, "16 channels"),
        ("adaln", {"embed_dim": 14, "input_projection": False}, "must be None or the latent width 12 .* found 14"),
        ("adaln", {"num_heads": 3}, "heads of 4 channels are too narrow for rotary positions .* which need 6; lower"),
        ("vjepa2_ac", {"head_dim": 5}, "heads of 5 channels are too narrow"),
        ("adaln-token", {"embed_dim": 8}, r"as wide as the predictor's tokens \(8\), found 12"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(name: str, keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(name, **keys)


def test_any_head_width_will_do_when_given() -> None:
    for name in ("adaln", "vjepa2_ac", "feature"):
        predictor = build(name, num_heads=5, head_dim=7)
        assert predictor(*inputs(name))[0].shape == (B, T, P, D)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("mlp", {"depth": 2, "num_heads": 2, "embed_dim": 8, "dropout": 0.1, "rotary_pairing": "corrected"}),
        ("recurrent", {"head_dim": 8, "mlp_dim": 8, "position": "learned", "num_positions": 3, "action_dims": 4}),
        ("adaln", {"hidden_dim": 8, "num_layers": 3, "action_as": "feature"}),
        ("feature", {"hidden_dim": 8, "position": "learned", "rotary_pairing": "corrected", "modulation_std": 0.0}),
        ("feature", {"projector_dim": 8, "input_projection": False, "qkv_bias": False, "action_as": "feature"}),
        ("feature", {"embed_dim": 8}),
        ("vjepa2_ac", {"num_layers": 3, "position": "learned", "num_positions": 3, "modulation_std": 0.0}),
        ("vjepa2_ac", {"projector_dim": 8, "input_projection": False, "qkv_bias": False}),
    ],
)
def test_keys_that_a_predictor_does_not_read_are_refused(name: Any, keys: dict[str, Any]) -> None:
    for key, value in keys.items():
        with pytest.raises(
            ConfigError, match=rf"model\.predictor\.{key} has no meaning for model\.predictor\.name '{name}'"
        ):
            PredictorConfig(name=name, **{key: value})


@pytest.mark.parametrize(
    ("keys", "choice"),
    [
        (
            {"name": "adaln", "num_positions": 9},
            r"num_positions has no meaning for model\.predictor\.position 'rotary'",
        ),
        (
            {"name": "adaln", "position": "learned", "rotary_pairing": "corrected"},
            r"rotary_pairing has no meaning for model\.predictor\.position 'learned'",
        ),
        (
            {"name": "vjepa2_ac", "action_dims": 4},
            r"action_dims has no meaning for model\.predictor\.action_as 'token'",
        ),
    ],
)
def test_keys_that_another_choice_leaves_unread_are_refused(keys: dict[str, Any], choice: str) -> None:
    with pytest.raises(ConfigError, match=choice):
        PredictorConfig(**keys)


def test_a_position_table_holds_the_context_window() -> None:
    with pytest.raises(
        ConfigError, match=r"num_positions \(2\) must hold model\.predictor\.context_window \(3\) frames"
    ):
        PredictorConfig(name="feature", context_window=3, num_positions=2)


@pytest.mark.parametrize("encoding", ["none", "token"])
def test_proprio_features_are_counted_only_where_there_are_some(encoding: Any) -> None:
    with pytest.raises(ConfigError, match=rf"model\.proprio\.dims has no meaning for .* '{encoding}'"):
        ProprioConfig(encoding, dims=9)


def pair(name: Any, encoding: Any, action_as: Any = "token", update: Any = "predict") -> ModelConfig:
    settings = {"action_as": action_as} if name == "vjepa2_ac" else {}
    return ModelConfig(
        predictor=PredictorConfig(name=name, **settings),
        proprio=ProprioConfig(encoding=encoding, update=update),
    )


@pytest.mark.parametrize(
    ("name", "encoding", "action_as", "known"),
    [
        ("mlp", "feature", "token", "none or token"),
        ("recurrent", "feature", "token", "none"),
        ("recurrent", "token", "token", "none"),
        ("feature", "token", "token", "none or feature"),
        ("vjepa2_ac", "feature", "token", "none or token"),
        ("vjepa2_ac", "token", "feature", "none or feature"),
    ],
)
def test_proprio_that_does_not_go_with_a_predictor_is_refused(
    name: str, encoding: str, action_as: str, known: str
) -> None:
    with pytest.raises(
        ConfigError, match=rf"'{encoding}' does not go with model\.predictor\.name '{name}'.*it takes {known}$"
    ) as caught:
        pair(name, encoding, action_as)
    assert (f"action_as '{action_as}'" in str(caught.value)) == (name == "vjepa2_ac")


def test_poses_are_integrated_where_the_latent_holds_them_and_only_there() -> None:
    assert pair("vjepa2_ac", "token", update="integrate_pose").proprio.update == "integrate_pose"
    for wrong in (("vjepa2_ac", "token", "token", "predict"), ("vjepa2_ac", "none", "token", "integrate_pose")):
        with pytest.raises(ConfigError, match=r"'integrate_pose' goes with a proprio token .* 'vjepa2_ac', and only"):
            pair(*wrong)
    with pytest.raises(ConfigError, match="'integrate_pose' goes with"):
        pair("adaln", "token", update="integrate_pose")
    for right in (("adaln", "token"), ("adaln", "feature"), ("feature", "feature"), ("mlp", "none")):
        assert pair(*right).proprio.update == "predict"
