"""What surrounds the library: the cluster file and the search spaces."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml


def test_cluster_yaml_satisfies_rays_own_schema(repo):
    jsonschema = pytest.importorskip("jsonschema")
    import ray

    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    cluster = yaml.safe_load((repo / "cluster.yaml").read_text())
    jsonschema.validate(cluster, schema)
    limit = sum(node.get("max_workers", 0) for node in cluster["available_node_types"].values())
    assert cluster["max_workers"] >= limit
    assert all(node.get("min_workers", 0) == 0 for node in cluster["available_node_types"].values())
    broken = {**cluster, "max_wokers": 3}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, schema)


def test_cluster_yaml_installs_extras_that_exist(repo):
    cluster = yaml.safe_load((repo / "cluster.yaml").read_text())
    extras = tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (install,) = (line for line in cluster["setup_commands"] if "pip install" in line)
    (named,) = re.findall(r"jepawm\[([\w,]+)\]", install)
    assert set(named.split(",")) <= set(extras)


@pytest.mark.parametrize("ignored_by", [".gitignore", ".rayignore"])
def test_no_room_of_the_package_is_ignored(repo, ignored_by):
    """A pattern `runs/` would keep new files of `jepawm/runs` out of git, and the whole room off a cluster."""
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout")
    packages = (repo / name for name in ("jepawm", "envs", "ray_jobs", "tune_spaces", "tests"))
    files = [path for package in packages for path in package.rglob("*.py") if "__pycache__" not in path.parts]
    ours = {f"{folder.relative_to(repo).as_posix()}/new_module.py" for folder in {path.parent for path in files}}
    command = ["git", "-c", f"core.excludesFile={repo / ignored_by}", "check-ignore", "--no-index", "--stdin"]
    done = subprocess.run(
        command, cwd=repo, input="\n".join([*ours, "runs/x/eval.json"]), capture_output=True, text=True
    )
    assert done.stdout.split() == ["runs/x/eval.json"], done.stderr


def test_every_key_of_a_search_space_is_a_configuration_key_and_every_sample_is_valid():
    from jepawm.config import RunConfig, to_dict
    from jepawm.config.yaml_io import flatten, from_dict
    from tune_spaces import encoder_space, optimizer_space, planner_space, predictor_space

    settings = flatten(to_dict(RunConfig()))
    for space in (encoder_space(), optimizer_space(), planner_space(), predictor_space()):
        assert space
        for _ in range(20):
            nested = to_dict(RunConfig())
            for key, domain in space.items():
                assert key in settings
                section = nested
                *path, leaf = key.split(".")
                for part in path:
                    section = section[part]
                section[leaf] = domain.sample()
            from_dict(RunConfig, nested, "a sample")
