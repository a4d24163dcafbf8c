"""What a cost is made of: distances, which model steps count, patches, heads and functions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepawm.config import ObjectiveConfig
from jepawm.errors import ConfigError, PlanningError
from jepawm.latent import Latent
from jepawm.planning import GoalDistance, build_objective

B, N, H, P, D = 2, 3, 4, 6, 5


def latents(*lead: int, seed: int) -> Latent:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((*lead, P, D), (*lead, 1, 2))
    return Latent(*(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes))


GOAL, CANDIDATES = latents(B, seed=0), latents(B, N, H, seed=1)


def cost(**settings: Any) -> Tensor:
    return build_objective(ObjectiveConfig(**settings), GOAL)(CANDIDATES)


def squared_per_step(pooled: bool = False, weight: float = 0.1) -> Tensor:
    """`[B,N,H]` mean squared distances, by the formula."""
    total = torch.zeros(B, N, H, dtype=torch.float64)
    for factor, part, goal in ((1.0, CANDIDATES.visual, GOAL.visual), (weight, CANDIDATES.proprio, GOAL.proprio)):
        gap = part - goal[:, None, None]
        total += factor * (gap.mean(dim=3, keepdim=True) if pooled else gap).square().mean(dim=(3, 4))
    return total


def by_visual_l1(predicted: Latent, goal: Latent) -> Tensor:
    """A distance of a user's own."""
    return (predicted.visual - goal.visual).abs().mean(dim=(-2, -1))


def of_a_wrong_shape(predicted: Latent, goal: Latent) -> Tensor:
    """A distance that forgot the model steps."""
    return (predicted.visual - goal.visual).abs().mean(dim=(-3, -2, -1))


def test_weights_of_model_steps_are_those_given() -> None:
    steps = squared_per_step()
    weights = torch.tensor([0.0, 0.5, 0.25, 2.0], dtype=torch.float64)
    found = cost(weighting="weighted", step_weights=tuple(weights.tolist()))
    torch.testing.assert_close(found, (steps * weights).sum(dim=-1))
    torch.testing.assert_close(cost(weighting="last"), steps[..., -1])
    torch.testing.assert_close(cost(weighting="sum"), steps.sum(dim=-1))
    last = cost(weighting="weighted", step_weights=(0.0, 0.0, 0.0, 1.0))
    torch.testing.assert_close(last, cost(weighting="last"), rtol=0, atol=0)


def test_a_shorter_plan_has_the_last_weights_and_a_longer_one_is_refused() -> None:
    longer = cost(weighting="weighted", step_weights=(9.0, 9.0, 1.0, 2.0, 3.0, 4.0))
    torch.testing.assert_close(longer, cost(weighting="weighted", step_weights=(1.0, 2.0, 3.0, 4.0)))
    with pytest.raises(PlanningError, match="has 3 weights, a plan has 4 model steps"):
        cost(weighting="weighted", step_weights=(1.0, 1.0, 1.0))


def test_pooled_patches_do_not_say_where_something_is() -> None:
    torch.testing.assert_close(cost(patches="pooled"), squared_per_step(pooled=True)[..., -1])
    moved = Latent(CANDIDATES.visual.flip(3), CANDIDATES.proprio)
    for patches, same in (("pooled", True), ("each", False)):
        objective = build_objective(ObjectiveConfig(patches=patches), GOAL)
        assert torch.allclose(objective(moved), objective(CANDIDATES)) is same


def test_the_temporal_distance_is_what_the_head_reads_of_both_parts() -> None:
    asked: list[tuple[torch.Size, ...]] = []

    def head(visual: Tensor, goal: Tensor, proprio: Tensor | None, goal_proprio: Tensor | None) -> Tensor:
        assert proprio is not None and goal_proprio is not None  # noqa: PT018
        asked.append((visual.shape, goal.shape, proprio.shape, goal_proprio.shape))
        return (visual - goal).abs().sum(dim=(-2, -1)) + 7 * (proprio - goal_proprio).abs().sum(dim=(-2, -1))

    gap = (CANDIDATES.visual - GOAL.visual[:, None, None]).abs().sum(dim=(-2, -1))
    gap = gap + 7 * (CANDIDATES.proprio - GOAL.proprio[:, None, None]).abs().sum(dim=(-2, -1))
    for weighting, expected in (("last", gap[..., -1]), ("sum", gap.sum(dim=-1))):
        config = ObjectiveConfig(distance="temporal", weighting=weighting)
        torch.testing.assert_close(build_objective(config, GOAL, head)(CANDIDATES), expected)
    # Only the last model step is read where only the last one counts.
    assert asked[0] == ((B, N, 1, P, D), (B, 1, 1, P, D), (B, N, 1, 1, 2), (B, 1, 1, 1, 2))
    with pytest.raises(ConfigError, match="needs the model's distance head"):
        build_objective(ObjectiveConfig(distance="temporal"), GOAL)


def test_a_function_of_a_users_own_is_a_distance() -> None:
    found = cost(distance=f"{__name__}:by_visual_l1", weighting="sum")
    torch.testing.assert_close(found, cost(distance="l1", weighting="sum", proprio_weight=0.0))
    with pytest.raises(PlanningError, match=r"a distance for each predicted latent, \[2, 3, 1\]; found \[2, 3\]"):
        cost(distance=f"{__name__}:of_a_wrong_shape")
    with pytest.raises(ConfigError, match=r"objective\.distance: cannot import .*:no_such_function"):
        cost(distance=f"{__name__}:no_such_function")
    with pytest.raises(ConfigError, match="is no function"):
        cost(distance=f"{__name__}:GOAL")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distance": "l3"}, r"unknown 'l3' .*l1, l2, temporal\); a function of your own is written module:function"),
        ({"weighting": "weighted"}, "needs objective.step_weights"),
        ({"weighting": "weighted", "step_weights": (0.0, 0.0)}, "of which one at least is above 0"),
        ({"step_weights": (1.0, -1.0)}, "must not be negative"),
    ],
)
def test_an_objective_that_means_nothing_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ObjectiveConfig(**settings)


# -- the distance to the goal -----------------------------------------------------------------------------------------


def random_latent(*lead: int, proprio: bool) -> Latent:
    generator = torch.Generator().manual_seed(len(lead))
    visual = torch.randn(*lead, 3, 5, generator=generator)
    return Latent(visual, torch.randn(*lead, 1, 2, generator=generator) if proprio else None)


def at_goal(goal: Latent) -> Latent:
    """One candidate that is at the goal all the way."""
    return goal.map(lambda part: part[:, None, None].expand(-1, 1, 4, -1, -1))


def distance(goal: Latent, way: Any, proprio_weight: float = 0.1) -> GoalDistance:
    return GoalDistance(ObjectiveConfig(weighting=way, proprio_weight=proprio_weight), goal)


def test_goal_distance_is_the_mean_square_at_the_end_or_over_the_way() -> None:
    goal, latents = random_latent(2, proprio=False), random_latent(2, 7, 4, proprio=False)
    last, total = (distance(goal, way)(latents) for way in ("last", "sum"))
    assert last.shape == total.shape == (2, 7)
    for b in range(2):
        for n in range(7):
            each = [np.mean((latents.visual[b, n, h].numpy() - goal.visual[b].numpy()) ** 2) for h in range(4)]
            assert last[b, n].item() == pytest.approx(each[-1], rel=1e-5)
            assert total[b, n].item() == pytest.approx(sum(each), rel=1e-5)
    assert distance(goal, "sum")(at_goal(goal)).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("weight", [0.0, 0.1, 3.0])
def test_the_proprio_part_is_weighed_beside_the_visual_one(weight: float) -> None:
    goal, latents = random_latent(2, proprio=True), random_latent(2, 7, 4, proprio=True)
    of_visual = {way: distance(Latent(goal.visual), way)(Latent(latents.visual)) for way in ("last", "sum")}
    gap = (latents.proprio - goal.proprio[:, None, None]).square().mean(dim=(-2, -1))
    for way, of_proprio in (("last", gap[:, :, -1]), ("sum", gap.sum(dim=-1))):
        found = distance(goal, way, weight)(latents)
        torch.testing.assert_close(found, of_visual[way] + weight * of_proprio)
    assert distance(goal, "sum", weight)(at_goal(goal)).tolist() == [[0.0], [0.0]]
    torch.testing.assert_close(distance(goal, "last")(latents), distance(goal, "last", 0.1)(latents))


@pytest.mark.parametrize("way", ["last", "sum"])
def test_the_cost_of_an_episode_is_of_its_own_goal(way: Any) -> None:
    goal, latents = random_latent(2, proprio=True), random_latent(2, 7, 4, proprio=True)
    whole = distance(goal, way)(latents)
    for b in (0, 1):
        torch.testing.assert_close(distance(goal[b : b + 1], way)(latents[b : b + 1])[0], whole[b])
    swapped = distance(goal[torch.tensor([1, 0])], way)(latents)
    assert not torch.isclose(swapped, whole).any()
