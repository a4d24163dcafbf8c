"""Growing windows, memory and micro-batches: nothing of them changes a plan."""

import gc
from dataclasses import replace
from typing import Any

import pytest
import torch
from engine_models import KINDS, context_of, make_model, random_chunks
from torch import Tensor, nn

from jepawm.config import ObjectiveConfig, PlannerConfig
from jepawm.engine import MemoryEstimate, PlanningUnroll, UnrollSettings
from jepawm.engine.cuda_graphs import CudaGraphs
from jepawm.engine.memory import peak_bytes
from jepawm.errors import ConfigError, PlanningError
from jepawm.nn.attention import Attention
from jepawm.planning import ActionSearchSpace, Plan, build_objective, build_planner
from jepawm.predictors import CausalPredictor
from jepawm.types import ActionSpec
from jepawm.world_model import WorldModel

from engine_models import FRAMESKIP, STATISTICS  # isort: skip

CAUSAL = [kind for kind in KINDS if kind not in ("mlp", "recurrent")]
CEM = PlannerConfig(horizon=3, num_samples=24, num_elites=6, num_iterations=2, precision="float32")


# -- growing windows -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context_window", "seen"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 2), (3, 3), (4, 2), (6, 1)])
def test_candidates_unroll_as_plain_windows_do(kind: str, context_window: int, seen: int) -> None:
    """In float64, so that a difference is a difference of the equations and not of their rounding."""
    model = make_model(kind, context_window).double()
    context, chunks = context_of(model, seen), random_chunks(model, 2, 5, 4).double()
    past = random_chunks(model, 2, seen - 1, seed=4).double() if seen > 1 else None
    found = model.unroll_candidates(context, chunks, past)
    for candidate in range(chunks.shape[1]):
        expected = model.unroll(context, chunks[:, candidate], past)
        torch.testing.assert_close(found[:, candidate].parts(), expected.parts(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context_window", "seen"), [(1, 1), (2, 1), (2, 3), (4, 2), (6, 1)])
def test_single_steps_from_the_latents_of_an_unroll_predict_that_unroll(
    kind: str, context_window: int, seen: int
) -> None:
    model = make_model(kind, context_window).double()
    context, chunks = context_of(model, seen), random_chunks(model, 2, 5, 4).double()
    past = random_chunks(model, 2, seen - 1, seed=4).double() if seen > 1 else None
    expected = model.unroll_candidates(context, chunks, past)
    found = model.step_candidates(context, expected[:, :, :-1], chunks, past)
    torch.testing.assert_close(found.parts(), expected.parts(), rtol=1e-10, atol=1e-10)
    # A step starts from the latents given, and from none that lies more than a window before it.
    shifted = expected[:, :, :-1].map(lambda part: torch.cat([part[:, :, :1].roll(1, dims=-1), part[:, :, 1:]], dim=2))
    moved = model.step_candidates(context, shifted, chunks, past).visual - found.visual
    changed = moved.abs().flatten(3).amax(dim=(0, 1, 3)) > 1e-8
    within = [1 <= step <= context_window for step in range(4)]
    assert not changed[~torch.tensor(within)].any()
    assert changed[1]
    with pytest.raises(ConfigError, match=r"4 chunks need latents \[2, 5, 3\] between them, found \[2, 5, 4\]"):
        model.step_candidates(context, expected, chunks, past)


@pytest.mark.parametrize("kind", CAUSAL)
def test_windows_that_grow_are_computed_frame_by_frame(kind: str) -> None:
    """Counts the tokens that the first block's feed-forward sees: each frame once, and the past once an episode."""
    B, N, H, seen = 2, 5, 3, 2
    model = make_model(kind, context_window=seen + H - 1)
    tokens: list[int] = []
    block: Any = model.predictor.blocks[0]  # type: ignore[union-attr, index]
    block.mlp.register_forward_pre_hook(lambda module, given: tokens.append(given[0].numel() // given[0].shape[-1]))
    past = random_chunks(model, B, seen - 1, seed=4)
    model.unroll_candidates(context_of(model, seen), random_chunks(model, B, N, H), past)
    frame = tokens[0] // (B * (seen - 1))
    assert tokens == [B * (seen - 1) * frame] + [B * N * frame] * H


def test_training_draws_dropout_for_each_window() -> None:
    """Shared computations would share their dropout, and a published loss would be another."""
    model = make_model("adaln", context_window=4).train()
    assert isinstance(model.predictor, CausalPredictor)
    model.predictor.encode_actions = None  # type: ignore[assignment, method-assign]
    with pytest.raises(TypeError):
        model.unroll_candidates(context_of(model, 1), random_chunks(model, 2, 5, 3))


def test_latents_of_a_wrong_shape_are_refused() -> None:
    model = make_model("adaln")
    context = context_of(model, 1).map(lambda part: part[..., :2, :])
    with pytest.raises(ConfigError, match=r"takes visual latents \[B,T,P,D\] with P, D = 4, 16, found \(2, 16\)"):
        model.unroll_candidates(context, random_chunks(model, 2, 5, 3))


def test_a_lone_key_has_all_the_weight() -> None:
    torch.manual_seed(0)
    attention = Attention(8, 2).double()
    x = torch.randn(3, 1, 8, dtype=torch.float64)
    value = nn.functional.linear(x, attention.qkv.weight[16:], attention.qkv.bias[16:])
    for with_gradients in (False, True):
        with torch.set_grad_enabled(with_gradients):
            torch.testing.assert_close(attention(x), attention.proj(value), rtol=1e-12, atol=1e-12)


# -- micro-batches and memory ----------------------------------------------------------------------------------------


class Planned:
    """A search for two episodes with one model."""

    def __init__(self, model: WorldModel, planner: PlannerConfig = CEM) -> None:
        self.model, self.planner = model, planner
        self.context = context_of(model, 1)
        bounds = ActionSpec(2, (-4.0, -4.0), (4.0, 4.0))
        self.space = ActionSearchSpace(bounds, STATISTICS, frameskip=FRAMESKIP, hold=True)
        self.objective = build_objective(ObjectiveConfig(), self.context[:, 0].map(lambda part: part.flip(0)))

    def plan(self, settings: UnrollSettings, **changes: Any) -> Plan:
        unroll = PlanningUnroll(self.model, self.context, None, settings)
        generators = [torch.Generator().manual_seed(row) for row in range(2)]
        return build_planner(replace(self.planner, **changes), self.space).plan(
            unroll, self.objective, generators=generators
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [5, 23, "auto"])
def test_a_float32_plan_is_the_same_for_any_micro_batch(kind: str, size: Any) -> None:
    planned = Planned(make_model(kind))
    whole = planned.plan(UnrollSettings("float32"))
    parts = planned.plan(UnrollSettings("float32"), max_candidates_per_forward=size)
    # The elites are the same candidates, and only the order in which their mean is summed may differ.
    torch.testing.assert_close(parts.chunks_BHA, whole.chunks_BHA, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(parts.best_cost_IB, whole.best_cost_IB, rtol=1e-4, atol=1e-6)


def test_memory_stays_the_same_over_200_replans() -> None:
    planner = replace(CEM, horizon=2, num_samples=4, num_elites=2, num_iterations=1)  # type: ignore[call-arg]
    planned, settings = Planned(make_model("mlp"), planner), UnrollSettings("bfloat16")

    def tensors() -> int:
        gc.collect()
        return sum(type(each) in (Tensor, nn.Parameter) for each in gc.get_objects())

    def replan() -> None:
        planned.plan(settings, max_candidates_per_forward="auto")

    replan()
    before = tensors()
    for _ in range(200):
        replan()
    assert tensors() == before


def test_the_estimate_is_what_a_forward_pass_holds() -> None:
    model = make_model("adaln")
    context, chunks = context_of(model, 1), random_chunks(model, 2, 40, 3)
    unroll = PlanningUnroll(model, context, None, UnrollSettings("float32"))

    def objective(latents: Any) -> Tensor:
        return latents.visual[:, :, -1].square().mean(dim=(-2, -1))

    with torch.no_grad():
        estimate = unroll.estimate(objective, chunks)
        held = peak_bytes(lambda: objective(unroll(chunks)))
    assert (estimate.num_episodes, estimate.num_candidates) == (2, 40)
    assert estimate.bytes_of(40) == pytest.approx(held, rel=0.1)


def test_a_peak_is_what_was_held_at_the_same_time() -> None:
    def work() -> Tensor:
        total = torch.zeros(1000)
        for _ in range(5):
            total = total + torch.ones(1000)
        return total

    # The sum so far, what is added and the new sum: three tensors of 4,000 bytes.
    assert peak_bytes(work) == 12_000
    given = torch.zeros(1000)
    assert peak_bytes(lambda: given.view(10, 100).add_(1)) == 0


@pytest.mark.parametrize(("free", "fit"), [(10**6, 24), (4000, 8), (1300, 1), (10, 1)])
def test_candidates_are_as_many_as_half_of_free_host_memory_holds(free: int, fit: int) -> None:
    estimate = MemoryEstimate(
        num_episodes=2, num_candidates=24, fixed_bytes=400, bytes_per_candidate=100, free_bytes=free, device="cpu"
    )
    assert estimate.candidates_that_fit == fit
    assert estimate.bytes_of(3) == 400 + 3 * 2 * 100


def test_the_estimate_is_said_once_before_planning(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    planned, settings = Planned(make_model("adaln")), UnrollSettings("float32", say=said.append)
    monkeypatch.setattr("jepawm.engine.unroll.free_memory_bytes", lambda device: 2**30)
    planned.plan(settings)
    planned.plan(settings)
    assert len(said) == 1
    assert "of 1,024 MiB free on cpu: 24 candidates of each of 2 episode(s) in 1 forward pass(es)" in said[0]


def test_little_memory_means_small_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    planned = Planned(make_model("adaln"))
    settings = UnrollSettings("float32")
    unroll = PlanningUnroll(planned.model, planned.context, None, settings)
    chunks = random_chunks(planned.model, 2, 24, 3)
    with torch.no_grad():
        each = unroll.estimate(planned.objective, chunks)
    free = 2 * each.bytes_of(5)
    monkeypatch.setattr("jepawm.engine.unroll.free_memory_bytes", lambda device: free)
    assert unroll.candidates_per_forward(planned.objective, chunks, "auto") == 5
    assert unroll.candidates_per_forward(planned.objective, chunks, None) == 24
    assert unroll.candidates_per_forward(planned.objective, chunks, 100) == 24


def test_memory_that_did_not_suffice_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    planned, settings = Planned(make_model("adaln")), UnrollSettings("float32")
    expected, widths = planned.plan(UnrollSettings("float32")), []
    unroll_candidates = planned.model.unroll_candidates

    def short_of_memory(context: Any, chunks: Tensor, past: Any = None) -> Any:
        widths.append(chunks.shape[1])
        if chunks.shape[1] > 12:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 99 bytes")
        return unroll_candidates(context, chunks, past)

    monkeypatch.setattr(planned.model, "unroll_candidates", short_of_memory)
    found = planned.plan(settings)
    assert widths == [24, *[12, 12] * CEM.num_iterations]  # type: ignore[attr-defined]
    torch.testing.assert_close(found.chunks_BHA, expected.chunks_BHA, rtol=1e-5, atol=1e-6)


def test_cuda_graphs_are_for_cuda() -> None:
    model = make_model("adaln")
    with pytest.raises(PlanningError, match=r"planner\.cuda_graphs records work of a CUDA device, and the model is on"):
        PlanningUnroll(model, context_of(model, 1), None, UnrollSettings("float32", graphs=CudaGraphs()))
