"""What surrounds the library: the cluster file, the search spaces, the wheel."""

import json
import subprocess
import sys
import zipfile
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


def test_every_key_of_a_search_space_is_a_configuration_key_and_every_sample_is_valid():
    from jepawm.config import RunConfig, to_dict
    from jepawm.config.yaml_io import flatten, from_dict
    from tune_spaces import encoder_space, optimizer_space, planner_space, predictor_space

    known = flatten(to_dict(RunConfig()))
    for space in (encoder_space(), optimizer_space(), planner_space(), predictor_space()):
        assert space
        for _ in range(20):
            nested = to_dict(RunConfig())
            for key, domain in space.items():
                assert key in known
                section = nested
                *path, leaf = key.split(".")
                for part in path:
                    section = section[part]
                section[leaf] = domain.sample()
            from_dict(RunConfig, nested, "a sample")


def test_the_wheel_holds_the_four_packages_and_the_recipes(repo, tmp_path):
    quiet = ["--quiet", "--no-deps", "--no-build-isolation"]
    command = [sys.executable, "-m", "pip", "wheel", *quiet, "-w", str(tmp_path)]
    source = tmp_path / "source"
    source.mkdir()
    # A copy, for building leaves folders behind.
    for name in ("jepawm", "envs", "ray_jobs", "tune_spaces", "pyproject.toml", "README.md", "LICENSE"):
        subprocess.run(["cp", "-r", str(repo / name), str(source / name)], check=True)
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "jepawm",
        "envs",
        "ray_jobs",
        "tune_spaces",
    }
    assert {"jepawm/recipes/demo.yaml", "jepawm/recipes/pusht_human.yaml", "jepawm/py.typed"} <= set(names)
    assert "jepawm/data/download/public_sources.yaml" in names
