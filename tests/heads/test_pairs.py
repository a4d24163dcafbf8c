"""Heads that read now and a goal: their widths, their scales, and what they refuse."""

import pytest
import torch

from jepawm.config.head import HeadConfig
from jepawm.errors import ConfigError
from jepawm.heads import HeadShape, build_head
from jepawm.heads.pairs import PairFeatures
from jepawm.latent import Latent

SHAPE = HeadShape((2, 3), latent_dim=4, proprio_dim=5, image_size=16, chunk_dim=6, state_names=("x", "y"))
PAIRS = {"distance": (), "inverse_dynamics": (6,)}


def latents(*lead: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*lead, 6, 4, generator=generator), torch.randn(*lead, 1, 5, generator=generator)


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("tokens", ["all", "mean"])
def test_goals_broadcast_over_candidates_and_model_steps(name: str, tokens: str) -> None:
    head = build_head(HeadConfig(name=name, tokens=tokens, hidden_dim=8), SHAPE)
    (visual, proprio), (goal, goal_proprio) = latents(2, 3, 4), latents(2, 1, 1, seed=1)
    found = head(visual, goal, proprio, goal_proprio)
    assert found.shape == (2, 3, 4, *PAIRS[name])
    one = head(visual[1, 2, 3], goal[1, 0, 0], proprio[1, 2, 3], goal_proprio[1, 0, 0])
    torch.testing.assert_close(found[1, 2, 3], one)


@pytest.mark.parametrize("name", PAIRS)
def test_proprio_is_read_unless_the_head_is_told_not_to(name: str) -> None:
    (visual, proprio), (goal, goal_proprio) = latents(3), latents(3, seed=1)
    reads = build_head(HeadConfig(name=name, hidden_dim=8), SHAPE)
    assert not torch.equal(reads(visual, goal, proprio, goal_proprio), reads(visual, goal, proprio + 1, goal_proprio))
    blind = build_head(HeadConfig(name=name, hidden_dim=8, reads_proprio=False), SHAPE)
    assert torch.equal(blind(visual, goal, proprio, goal_proprio), blind(visual, goal))
    with pytest.raises(ConfigError, match="reads a proprio part of width 5, found None"):
        reads(visual, goal)
    with pytest.raises(ConfigError, match=r"6 patches of width 4, found \[6, 3\]"):
        reads(visual[..., :3], goal[..., :3], proprio, goal_proprio)


def test_the_mean_of_the_patches_does_not_know_where_they_are() -> None:
    visual, _ = latents(3)
    mean = PairFeatures(6, 4, 0, mean_of_patches=True)
    all_of_them = PairFeatures(6, 4, 0, mean_of_patches=False)
    torch.testing.assert_close(mean(visual, None), mean(visual.flip(1), None))
    assert not torch.allclose(all_of_them(visual, None), all_of_them(visual.flip(1), None))


def test_features_are_centred_and_scaled_and_constant_ones_are_not_blown_up() -> None:
    visual, proprio = latents(500)
    visual = 7 + 30 * visual
    visual[:, 0, 0] = 3.0
    features = PairFeatures(6, 4, 5, mean_of_patches=False)
    features.fit(visual, proprio)
    found = features(visual, proprio)
    torch.testing.assert_close(found.mean(dim=0), torch.zeros(29), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.std(dim=0, correction=0)[1:], torch.ones(28))
    # A feature that is one number in the training data stays small where it is another.
    assert found[:, 0].abs().max() == 0
    elsewhere = visual[:1].clone()
    elsewhere[:, 0, 0] += 0.01
    assert 0 < features(elsewhere, proprio[:1])[0, 0] < 1


def test_a_distance_is_never_negative() -> None:
    head = build_head(HeadConfig(name="distance", hidden_dim=8), SHAPE)
    (visual, proprio), (goal, goal_proprio) = latents(64), latents(64, seed=1)
    assert (head(50 * visual, 50 * goal, proprio, goal_proprio) >= 0).all()


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"name": "transposed_conv"}, SHAPE, "single token, the model's have 6 patches"),
        ({"name": "state"}, HeadShape((1, 1), 4, 0, 16, 6), "simulator's state, these have none"),
        ({"name": "image", "patch_size": 7}, SHAPE, r"multiple of patch_size \(7\), found 16"),
    ],
)
def test_a_head_that_does_not_fit_the_model_is_refused(settings: dict, shape: HeadShape, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_head(HeadConfig(**settings), shape)


@pytest.mark.parametrize("name", HeadConfig.kinds)
def test_every_kind_is_built_at_a_small_size(name: str) -> None:
    sizes = {
        "image": {"dim": 16, "depth": 1, "num_heads": 2},
        "vqvae": {"channels": 8, "num_codes": 4, "num_residual": 1, "residual_channels": 4},
        "transposed_conv": {"depth": 1},
        "state": {"dim": 16, "depth": 1, "num_heads": 2},
    }
    shape = HeadShape((1, 1), 4, 0, 16, 6, ("x", "y"))
    head = build_head(HeadConfig(name=name, **sizes.get(name, {"hidden_dim": 8})), shape)
    visual = torch.randn(2, 3, 1, 4)
    if name in PAIRS:
        assert head(visual, visual).shape == (2, 3, *PAIRS[name])
    elif name == "state":
        assert head(visual).shape == (2, 3, 2)
    elif name == "macro":
        assert head.unroll(Latent(visual[:, 0]), torch.randn(2, 5, 3, 8)).visual.shape == (2, 5, 3, 1, 4)
    else:
        assert head.decode(visual).shape == (2, 3, 3, 16, 16)


def test_shapes_are_read_as_they_were_written() -> None:
    assert HeadShape.from_dict(SHAPE.to_dict()) == SHAPE
