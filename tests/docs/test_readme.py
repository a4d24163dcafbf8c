"""What the README tells people to type."""

import re
import shlex
import subprocess
from dataclasses import replace

import pytest
import torch
from published_files import published_model, published_parts
from safetensors.torch import save_file

import jepawm
from jepawm.agent import Agent
from jepawm.checkpoints.zoo import ZOO
from jepawm.config.command_line import parse, recipe_names
from jepawm.encoders import build_encoder


def _commands(repo):
    blocks = re.findall(r"```bash\n(.*?)```", (repo / "README.md").read_text(), flags=re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


def test_every_flag_the_readme_names_exists(repo, monkeypatch):
    monkeypatch.chdir(repo)
    monkeypatch.syspath_prepend(str(repo))
    from ray_jobs.collect import expand

    tried = 0
    for line in _commands(repo):
        words = shlex.split(line)
        if words[:1] != ["python"] or not words[1].startswith("ray_jobs/"):
            continue
        assert (repo / words[1]).is_file()
        flags = expand(words[2:]) if words[1].endswith("collect.py") else words[2:]
        if "--help" in flags or "--print-config" in flags:
            with pytest.raises(SystemExit) as stop:
                parse(flags)
            assert stop.value.code == 0
        elif not {"my.yaml", "RUN/config.yaml"} & set(flags) and "--model" not in flags:
            parse(flags)
        tried += 1
    assert tried >= 5


def test_the_make_targets_and_recipes_the_readme_names_exist(repo):
    text = (repo / "README.md").read_text()
    for target in set(re.findall(r"\bmake (demo|test|setup|lint)\b", text)):
        subprocess.run(["make", "-n", target], cwd=repo, check=True, capture_output=True)
    assert set(re.findall(r"--recipe (\w+)\b", text)) - {"my", "RUN"} <= set(recipe_names())


def test_every_result_file_the_readme_links_is_there(repo):
    for name in re.findall(r"\((benchmarks/[^)]+)\)", (repo / "README.md").read_text()):
        assert (repo / name).is_file(), name


def test_the_python_lines_of_the_readme_run(repo, tmp_path, monkeypatch):
    """As printed, but for the source of the weights and the length of the search."""
    pytest.importorskip("timm")
    (code,) = re.findall(r"```python\n(.*?)```", (repo / "README.md").read_text(), flags=re.DOTALL)
    torch.manual_seed(0)
    backbone = build_encoder(replace(ZOO["jepa_wm_wall"].encoder, weights=None), 224).encoder.backbone
    save_file(backbone.state_dict(), tmp_path / "dinov2.safetensors")
    torch.save(published_parts(published_model("jepa_wm_wall")), tmp_path / "jepa_wm_wall.pth.tar")
    load, plan = jepawm.load, Agent.plan
    files = {"checkpoint": str(tmp_path / "jepa_wm_wall.pth.tar"), "device": "cpu"}
    files["encoder_weights"] = str(tmp_path / "dinov2.safetensors")
    short = {"num_samples": 2, "num_elites": 2, "num_iterations": 1, "horizon": 1}
    monkeypatch.setattr(jepawm, "load", lambda name: load(name, **files))
    monkeypatch.setattr(Agent, "plan", lambda agent, now, goal: plan(agent, now, goal, **short))
    names: dict = {}
    exec(code, names)
    assert names["plan"].actions.shape == (5, 2)
    assert names["observation"]["pixels"].shape == (224, 224, 3)
