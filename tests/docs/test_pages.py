"""What README and docs tell people to type and to read: commands parse, examples run, links lead somewhere."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import doc_pages
import pytest
import torch
from published_files import published_model, published_parts
from safetensors.torch import save_file

import jepawm
from jepawm.agent import Agent
from jepawm.checkpoints.zoo import ZOO
from jepawm.encoders import build_encoder

# The Python blocks of these pages need surroundings of their own; the named test runs them.
OWN_TESTS = {
    "docs/data.md": "test_data_page.py",
    "docs/extend/encoder.md": "test_extend_models.py",
    "docs/extend/environment.md": "test_extend_environment.py",
    "docs/extend/importer.md": "test_extend_importer.py",
    "docs/extend/planner.md": "test_extend_models.py",
    "docs/masking.md": "test_masking_page.py",
}
PYTHON_PAGES = sorted({block.page for block in doc_pages.blocks("python")})


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`jepawm.load("jepa_wm_wall")` reads a file of the published layout with random weights, and searches briefly."""
    pytest.importorskip("timm")
    torch.manual_seed(0)
    backbone = build_encoder(replace(ZOO["jepa_wm_wall"].encoder, weights=None), 224).encoder.backbone
    save_file(backbone.state_dict(), tmp_path / "dinov2.safetensors")
    torch.save(published_parts(published_model("jepa_wm_wall")), tmp_path / "jepa_wm_wall.pth.tar")
    load, plan = jepawm.load, Agent.plan
    short = {"num_samples": 2, "num_elites": 2, "num_iterations": 1, "horizon": 1}

    def load_local(name: str) -> Agent:
        if name not in ZOO:
            return load(name)
        agent = load(
            name,
            str(tmp_path / "jepa_wm_wall.pth.tar"),
            device="cpu",
            encoder_weights=str(tmp_path / "dinov2.safetensors"),
        )
        monkeypatch.setattr(agent, "plan", lambda now, goal: plan(agent, now, goal, **short))
        return agent

    monkeypatch.setattr(jepawm, "load", load_local)


@pytest.mark.parametrize("page", [page for page in PYTHON_PAGES if page not in OWN_TESTS])
def test_the_python_blocks_of_a_page_run_in_order(page, surroundings, request, monkeypatch):
    code = doc_pages.blocks("python", [doc_pages.REPO / page])
    if any(f'"{name}"' in block.text for block in code for name in ZOO):
        request.getfixturevalue("published")
    monkeypatch.chdir(surroundings.folder)
    names: dict[str, Any] = {}
    for block in code:
        text = re.sub(r'"(RUN|RUN_B|DATASET)"', lambda match: repr(surroundings.named[match[1]]), block.text)
        exec(compile(text, str(block), "exec"), names)
    if page == "README.md":
        assert names["plan"].actions.shape == (5, 2)
        assert names["observation"]["pixels"].shape == (224, 224, 3)


@pytest.mark.parametrize("page", [page for page in PYTHON_PAGES if page in OWN_TESTS])
def test_a_page_with_surroundings_of_its_own_has_a_test(page):
    assert page in (Path(__file__).parent / OWN_TESTS[page]).read_text().replace('" / "', "/")


@pytest.mark.parametrize(("page", "target"), doc_pages.links())
def test_a_link_leads_somewhere(page, target, repo):
    path, _, anchor = target.partition("#")
    linked = ((repo / page).parent / path).resolve() if path else repo / page
    assert linked.exists(), f"{page} links to {target}"
    assert not anchor or anchor in doc_pages.anchors(linked), f"{page} links to {target}"
