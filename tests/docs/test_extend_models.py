"""docs/extend/planner.md and encoder.md: their code is saved, and works as the pages say."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepawm.agent import Agent
from jepawm.checkpoints.model_folder import ModelSpec, build_world_model, load_world_model, save_world_model
from jepawm.config import EncoderConfig, ModelConfig, PlannerConfig, PredictorConfig, RunConfig, from_dict, to_dict
from jepawm.config.command_line import parse
from jepawm.types import ActionSpec, Statistics

PAGES = {"docs/extend/planner.md": "my_search", "docs/extend/encoder.md": "my_encoder"}
ZEROS, ONES = np.zeros(2, np.float32), np.ones(2, np.float32)
ACTION = ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))


@pytest.fixture
def saved(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the modules of both pages, from which they can be imported."""
    for page, module in PAGES.items():
        text = (repo / page).read_text("utf-8")
        blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
        assert f"`{module}.py`" in text
        (tmp_path / f"{module}.py").write_text(blocks[0], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for module in PAGES.values():
        sys.modules.pop(module, None)


def spec_of(config: ModelConfig, **run: Any) -> ModelSpec:
    return ModelSpec(config, 32, 2, Statistics(ZEROS, ONES, ZEROS, ONES), ACTION, run)


def observation(seed: int) -> dict[str, np.ndarray]:
    return {"pixels": np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)}


def test_the_planner_plans(saved: Path) -> None:
    torch.manual_seed(0)
    spec = spec_of(ModelConfig(EncoderConfig(latent_dim=8, hidden_dim=8), PredictorConfig(hidden_dim=8)))
    agent = Agent(build_world_model(spec).eval(), spec, PlannerConfig(horizon=3, num_samples=16, num_elites=4))
    place = "my_search:NarrowingSearchConfig"
    plan = agent.plan(observation(1), observation(2), name=place, num_samples=32, num_rounds=6)
    assert plan.actions.shape == (6, 2)
    assert plan.best_cost_per_iteration.shape == (6,)
    # Candidate 0 is the best plan so far, so no round is worse than the one before it; the unroll rounds in float32.
    costs = plan.best_cost_per_iteration
    assert (np.diff(costs) <= 1e-5 * costs[0]).all()
    assert np.abs(plan.actions).max() <= 1.0


def test_the_encoder_is_trained_from_the_command_line_and_comes_back_from_its_folder(
    repo: Path, saved: Path, tmp_path: Path
) -> None:
    text = (repo / "docs/extend/encoder.md").read_text("utf-8")
    (line,) = re.findall(r"^jepawm train (.*)$", text, flags=re.MULTILINE)
    config, _ = parse(line.split())
    assert type(config.model.encoder).__name__ == "GridEncoderConfig"
    assert from_dict(RunConfig, to_dict(config)) == config
    spec = spec_of(config.model, **to_dict(config))
    model = build_world_model(spec)
    assert (model.num_patches, model.latent_dim) == (4, 24)
    save_world_model(tmp_path / "model", model, spec)
    again, _ = load_world_model(str(tmp_path / "model"))
    pixels = torch.from_numpy(observation(1)["pixels"]).permute(2, 0, 1)[None, None]
    assert torch.equal(again.encode(pixels).visual, model.eval().encode(pixels).visual)


def test_the_lists_the_pages_name_are_there(repo: Path) -> None:
    for page, (test, name) in {
        "docs/extend/planner.md": ("tests/planning/test_planner_contract.py", "PLANNERS"),
        "docs/extend/encoder.md": ("tests/encoders/test_encoder_contract.py", "ENCODERS"),
    }.items():
        assert f"`{name}` in `{test}`" in (repo / page).read_text("utf-8")
        assert f"\n{name}: dict[str, Case] = {{" in (repo / test).read_text("utf-8")
