"""A policy without search: it solves what random plans do not, and an evaluation plays it beside the planner."""

import dataclasses
import pickle
from pathlib import Path

import dot_world
import pytest
import torch
from configs import split_of, trained_spec, unit_spec
from synthetic_results import synthetic_result
from torch import Tensor

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, load_world_model
from jepawm.config import (
    DataConfig,
    EnvConfig,
    EvaluationConfig,
    OptimConfig,
    PlannerConfig,
    PredictorConfig,
    RandomPlansConfig,
    RunConfig,
    SubgoalConfig,
)
from jepawm.config.head import HeadConfig, HeadJob, HeadTrainConfig
from jepawm.config.tracking import TrackingConfig
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.errors import PlanningError
from jepawm.evaluation.baselines import InverseDynamicsPolicy, learned_baselines
from jepawm.evaluation.compare import compare
from jepawm.evaluation.compare_page import write_comparison
from jepawm.evaluation.evaluate import evaluate
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.outcomes import ProtocolReport
from jepawm.evaluation.planner_host import PlannerHost
from jepawm.evaluation.planner_pool import PlannerPool
from jepawm.evaluation.report import write_report
from jepawm.evaluation.result import EvaluationResult
from jepawm.latent import Latent
from jepawm.rollout import EnvHost, EnvPool, SerialBackend
from jepawm.runs.comparison import print_comparison
from jepawm.runs.heads import train_head
from jepawm.runs.planner_hosts import pack_model
from jepawm.runs.summary import print_result
from jepawm.training.checkpoint import fresh_state, save_checkpoint
from jepawm.training.head_tasks import build_task
from jepawm.training.heads import fit_head
from jepawm.types import ActionSpec, Observations

REACHED = 0.1
CHUNKS = 9


class DotModel:
    """The dot's own dynamics as a world model: latents of places, which pixels tell by their brightest cell."""

    context_window, frameskip, uses_proprio, proprio_dim = 1, 1, False, 0
    action_mean = torch.zeros(2)

    def encode(self, pixels_BTCYX: Tensor, proprio_BTR: Tensor | None = None) -> Latent:
        flat = pixels_BTCYX[:, :, 0].float().flatten(2)
        share = flat / flat.sum(dim=-1, keepdim=True)
        cells = (torch.arange(dot_world.SIZE) + 0.5) / dot_world.SIZE
        grid = torch.stack(torch.meshgrid(cells, cells, indexing="xy"), dim=-1).flatten(0, 1)
        return dot_world.latents_of(share @ grid)

    def unroll(self, context: Latent, chunks_BHA: Tensor) -> Latent:
        x_minus_y, x_plus_y = context.visual[:, -1, 0, 0], context.visual[:, -1, 0, 1]
        place = torch.stack([x_plus_y + x_minus_y, x_plus_y - x_minus_y], dim=-1) / 8 + 0.5
        moved = place[:, None] + dot_world.STRIDE * chunks_BHA.cumsum(dim=1)
        return dot_world.latents_of(moved)


def dot_spec() -> ModelSpec:
    return unit_spec(RunConfig(), ActionSpec(2, (-1.0, -1.0), (1.0, 1.0), max_norm=1.0))


def observed(places_B2: Tensor) -> Observations:
    return Observations(dot_world.draw(places_B2).movedim(1, -1)[:, None].numpy())


def share_solved(agent: Agent | InverseDynamicsPolicy, chunks_at_once: int) -> float:
    """Plays 40 tasks of a dot that has to come from one place to another."""
    generator = torch.Generator().manual_seed(5)
    start = 0.3 + 0.4 * torch.rand(40, 2, generator=generator)
    angle = 2 * torch.pi * torch.rand(40, generator=generator)
    goal = (start + 0.3 * torch.stack([angle.cos(), angle.sin()], dim=-1)).clamp(0.15, 0.85)
    place, solved = start.clone(), torch.zeros(40, dtype=torch.bool)
    agent.reset(observed(start), observed(goal))
    for done in range(0, CHUNKS, chunks_at_once):
        generators = [torch.Generator().manual_seed(1000 * done + row) for row in range(40)]
        for chunk in agent.act(generators, chunks_at_once).unbind(dim=1):
            place = (place + dot_world.STRIDE * chunk).clamp(0.1, 0.9)
            solved |= (place - goal).norm(dim=-1) < REACHED
        agent.observe(observed(place))
    return float(solved.float().mean())


@pytest.fixture(scope="module")
def policy() -> InverseDynamicsPolicy:
    """Trained by hindsight on straight ways of the dot."""
    torch.manual_seed(0)
    task = build_task(HeadConfig(name="inverse_dynamics", hidden_dim=64, num_layers=2, horizon=6), dot_world.SHAPE)
    train = HeadTrainConfig(num_train_steps=250, batch_size=64, precision="float32")
    optim = OptimConfig(learning_rate=3e-3, weight_decay=0.0, grad_clip_norm=1.0)
    head = fit_head(task, dot_world.episodes(150, 1), train, optim, seed=0).finish()
    return InverseDynamicsPolicy(DotModel(), dot_spec(), head)


@pytest.mark.parametrize("chunks_at_once", [1, 3])
def test_the_policy_solves_what_random_plans_do_not(policy: InverseDynamicsPolicy, chunks_at_once: int) -> None:
    random = Agent(
        DotModel(), dot_spec(), RandomPlansConfig(horizon=3, precision="float32"), replan_every=chunks_at_once
    )
    assert share_solved(policy, chunks_at_once) > 0.8
    assert share_solved(random, chunks_at_once) < 0.4


def test_the_policy_keeps_to_its_bounds_and_to_the_episodes_that_go_on(policy: InverseDynamicsPolicy) -> None:
    places = torch.tensor([[0.3, 0.3], [0.5, 0.5], [0.7, 0.3]])
    goals = torch.tensor([[0.6, 0.3], [0.5, 0.2], [0.4, 0.3]])
    generators = [torch.Generator()] * 3
    policy.reset(observed(places), observed(goals))
    together = policy.act(generators, 2)
    assert together.shape == (3, 2, 2)
    assert together.norm(dim=-1).max() <= 1 + 1e-6
    policy.keep([2, 0])
    torch.testing.assert_close(policy.act(generators[:2], 2), together[[2, 0]])
    policy.observe(observed(places[[1, 1]]))
    policy.reset(observed(places[1:2]), observed(goals[1:2]))
    alone = policy.act(generators[:1])
    torch.testing.assert_close(alone[0, 0], together[1, 0], rtol=1e-4, atol=1e-5)
    fresh = InverseDynamicsPolicy(
        policy.model, unit_spec(RunConfig(), ActionSpec(2, (-1.0,) * 2, (1.0,) * 2)), policy.head
    )
    with pytest.raises(PlanningError, match="reset comes first"):
        fresh.act(generators)


# -- in an evaluation ------------------------------------------------------------------------------------------------

CONFIG = RunConfig(
    device="cpu",
    data=DataConfig(held_out_fraction=0.1),
    planner=PlannerConfig(horizon=2, num_samples=8, num_elites=2, num_iterations=1, num_iterations_warm=1),
    evaluation=EvaluationConfig(num_episodes=3, protocols=("per_chunk",), num_animations=0, prediction_horizon=2),
)


def test_an_evaluation_plays_heads_and_draws_with_them(
    wall_dataset: EpisodeDataset, wall_env: EnvConfig, tmp_path: Path
) -> None:
    """Heads of a model that was not trained: what is tested is that they are found, played, measured and shown."""
    spec = trained_spec(CONFIG, wall_dataset)
    folder = str(tmp_path / "model")
    save_checkpoint(folder, fresh_state(CONFIG.training_plan(), spec, torch.device("cpu")), spec)
    for head in (
        HeadConfig(name="inverse_dynamics", hidden_dim=8, num_layers=1),
        HeadConfig(name="image", dim=16, depth=1, num_heads=2),
        HeadConfig(name="macro", num_model_steps=2, hidden_dim=8, predictor=PredictorConfig(hidden_dim=8)),
    ):
        train = HeadTrainConfig(num_train_steps=2, batch_size=8)
        data = dataclasses.replace(HeadJob().data, path=str(wall_dataset.path))
        train_head(
            HeadJob(
                model=folder, device="cpu", head=head, train=train, data=data, tracking=TrackingConfig(mlflow=False)
            ),
            Console(quiet=True),
        )
    model, spec = load_world_model(folder)
    search = dataclasses.replace(CONFIG.planner, num_iterations_warm=1)
    plan = dataclasses.replace(CONFIG, subgoals=SubgoalConfig(name="macro", planner=search)).evaluation_plan()
    with EnvPool(SerialBackend(lambda: EnvHost(wall_env))) as pool:
        result = evaluate(plan, model, spec, pool, wall_dataset, model_dir=folder, console=Console(quiet=True)).result
    # The nodes of planner hosts may not see the model's folder: its heads travel with it.
    parcel = pickle.loads(pickle.dumps(pack_model(model, spec, CONFIG.objective, plan.subgoals, version="version")))
    away = dataclasses.replace(parcel.spec, folder=str(tmp_path / "nowhere"))
    with EnvPool(SerialBackend(lambda: EnvHost(wall_env))) as pool:
        host = PlannerHost(parcel.model, away, [pool], heads=parcel.heads)
        there = evaluate(
            *(plan, model, spec, pool, None),
            model_dir=folder,
            console=Console(quiet=True),
            players=PlannerPool(SerialBackend(lambda: host), max_restarts=0, episodes_per_group=None),
        ).result
    assert set(parcel.heads) == {"inverse_dynamics", "macro"}
    # Plans that aim at subgoals end elsewhere; random plans do not.
    with EnvPool(SerialBackend(lambda: EnvHost(wall_env))) as pool:
        one_level = dataclasses.replace(plan, subgoals=SubgoalConfig())
        alone = evaluate(one_level, model, spec, pool, None, model_dir=folder, console=Console(quiet=True)).result
    assert alone.protocols["per_chunk"].planned.episodes != result.protocols["per_chunk"].planned.episodes
    assert alone.protocols["per_chunk"].random.episodes == result.protocols["per_chunk"].random.episodes
    for name in ("planned", "random"):
        played = [getattr(each.protocols["per_chunk"], name).episodes for each in (result, there)]
        assert played[0] == played[1]
    baseline = result.protocols["per_chunk"].baselines["inverse_dynamics"]
    assert there.protocols["per_chunk"].baselines["inverse_dynamics"].episodes == baseline.episodes
    assert [each.episode_id for each in baseline.episodes] == [
        each.episode_id for each in result.protocols["per_chunk"].planned.episodes
    ]
    told = result.protocols["per_chunk"].conditions
    assert told is not None
    assert told["subgoals"].startswith("head macro, 2 macro-actions (shrinking), cost last; cem, 8 samples")
    written = result.to_dict()
    assert written["baselines"]["inverse_dynamics"]["num_episodes"] == 3
    assert len(written["baselines"]["inverse_dynamics"]["success_interval"]) == 2
    assert EvaluationResult.from_dict(written) == result
    rows = written["images"]["image"]
    assert [row["model_steps"] for row in rows] == [0, 1, 2]
    assert all(0 < row["mse"] < 1 for row in rows)
    assert split_of(CONFIG, wall_dataset).held_out.tolist() == written["dataset"]["held_out_episodes"]
    write_report(str(tmp_path / "report.html"), result, [], {})
    page = (tmp_path / "report.html").read_text()
    assert "inverse_dynamics alone" in page
    assert "Frames that the head <b>image</b> draws" in page


def with_baseline(result: EvaluationResult, rate: SuccessRate) -> EvaluationResult:
    """A result whose every report has a head that acts alone at a rate."""

    def beside(report: ProtocolReport) -> ProtocolReport:
        return dataclasses.replace(report, baselines={"gc_idm": dataclasses.replace(report.random, rate=rate)})

    assert result.played is not None
    played = dataclasses.replace(
        result.played,
        protocols={name: beside(report) for name, report in result.played.protocols.items()},
        distance_curve=tuple(
            dataclasses.replace(point, report=beside(point.report)) for point in result.played.distance_curve
        ),
    )
    return dataclasses.replace(result, played=played)


@pytest.mark.parametrize(
    ("rate", "is_beaten"),
    [
        # The planner's interval is 0.714 to 0.917.
        (SuccessRate(0.5, (0.36, 0.64), 50), True),
        (SuccessRate(0.6, (0.46, 0.714), 50), False),
    ],
)
def test_a_planner_that_does_not_beat_acting_without_search_is_said_so_everywhere(
    rate: SuccessRate, is_beaten: bool, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    result = with_baseline(synthetic_result(), rate)
    assert EvaluationResult.from_dict(result.to_dict()) == result
    written = result.to_dict()
    points = [*written["protocols"].values(), *written["distance_curve"]]
    assert [point["unbeaten"] for point in points] == [[] if is_beaten else ["gc_idm"]] * 4
    print_result(result, Console())
    write_report(str(tmp_path / "report.html"), result, [], {})
    compared = compare({"a": result, "b": synthetic_result()})
    print_comparison(compared, print)
    write_comparison(str(tmp_path / "comparison.html"), compared)
    console = capsys.readouterr().out
    report, comparison = ((tmp_path / name).read_text("utf-8") for name in ("report.html", "comparison.html"))
    words = "not shown to be better than acting without search"
    # Two protocols and two distances, of an evaluation and of a comparison.
    assert console.count(words) == (0 if is_beaten else 8)
    assert report.count(words) == comparison.count(words) == (0 if is_beaten else 4)
    for text in (console, report, comparison):
        assert "gc_idm alone" in text


def test_the_curve_shows_every_condition_on_the_same_axes(tmp_path: Path) -> None:
    result = with_baseline(synthetic_result(), SuccessRate(0.5, (0.36, 0.64), 50))
    write_report(str(tmp_path / "report.html"), result, [], {})
    curve = (tmp_path / "report.html").read_text("utf-8").split("<h2>Success against goal distance")[1]
    drawn = curve[: curve.index("</svg>")]
    # Matplotlib writes each text of a figure as a comment beside its outlines.
    for label in ("planned", "random plans", "gc_idm alone"):
        assert f"<!-- {label} -->" in drawn
    found = compare({"a": result, "b": result, "c": synthetic_result()})
    assert [each.goal_offset_env_steps for each in found.distances] == [25, 50]
    assert [item.difference for each in found.distances for item in each.played.differences] == [0.0] * 4
    assert all(item.paired is not None for each in found.distances for item in each.played.differences)
    assert [each["goal_offset_env_steps"] for each in found.to_dict()["distances"]] == [25, 50]
    write_comparison(str(tmp_path / "comparison.html"), found)
    page = (tmp_path / "comparison.html").read_text("utf-8").split("<h2>Success against goal distance")[1]
    drawn = page[: page.index("</svg>")]
    # Baselines of the same model on the same tasks are drawn once.
    for label, count in (("a", 1), ("b", 1), ("c", 1), ("random plans, a", 1), ("random plans, b", 0)):
        assert drawn.count(f"<!-- {label} -->") == count, label
    assert drawn.count("gc_idm alone, ") == 1


def test_a_model_without_heads_or_folder_has_no_learned_baseline(wall_dataset: EpisodeDataset) -> None:
    assert learned_baselines(trained_spec(CONFIG, wall_dataset)) == []
