"""The cluster launcher's files and the image of the nodes, against the Ray that is installed."""

import re
import shlex
import tomllib
from typing import Any

import pytest
from cluster_files import CLOUDS, LAUNCHERS, nodes_started, pinned, read


def extras_of(text: str) -> set[str]:
    (named,) = re.findall(r"(?:jepawm|\.)\[([\w,]+)\]", text)
    return set(named.split(","))


def ray_start_options(command: str) -> dict[str, Any]:
    """The options of the `ray start` in a shell command, as the installed Ray understands them."""
    from ray.scripts.scripts import start

    (words,) = re.findall(r"ray start (.*)", command)
    return start.make_context("start", shlex.split(words)).params


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_launcher_file_satisfies_the_installed_ray_and_a_misspelt_key_does_not(repo, name):
    jsonschema = pytest.importorskip("jsonschema")
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(read(repo, name)))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(read(repo, name) | {"max_wokers": 3}))


@pytest.mark.parametrize("name", LAUNCHERS)
def test_nodes_start_with_a_token_and_a_dashboard_that_only_the_head_reaches(repo, name):
    cluster = read(repo, name)
    (head,) = (each for each in cluster["head_start_ray_commands"] if "ray start" in each)
    (worker,) = (each for each in cluster["worker_start_ray_commands"] if "ray start" in each)
    options = ray_start_options(head)
    assert options["head"]
    assert options["dashboard_host"] == "127.0.0.1"
    assert options["disable_usage_stats"]
    assert ray_start_options(worker)["address"] == f"$RAY_HEAD_IP:{options['port']}"
    everywhere = " ".join(cluster.get("docker", {}).get("run_options", []))
    for command in (head, worker):
        assert "RAY_AUTH_MODE=token" in everywhere + command
        assert "JEPAWM_HOME=/mnt/jepawm" in everywhere + command
    assert cluster["file_mounts"]["~/ray_auth_token"] == "~/.ray/auth_token"
    assert any("~/ray_auth_token ~/.ray/auth_token" in command for command in cluster["setup_commands"])


@pytest.mark.parametrize("name", CLOUDS)
def test_clouds_cost_nothing_but_the_head_while_idle_and_prefer_spot(repo, name):
    cluster = read(repo, name)
    types = cluster["available_node_types"]
    head = types.pop(cluster["head_node_type"])
    assert head["resources"]["CPU"] == 0
    assert cluster["idle_timeout_minutes"] <= 10
    assert all(each["min_workers"] == 0 and each["max_workers"] <= cluster["max_workers"] for each in types.values())
    for kind in ("cpu", "gpu"):
        spot, on_demand = types[f"{kind}_spot"], types[f"{kind}_on_demand"]
        assert spot["priority"] > on_demand.get("priority", 0)
        assert spot["resources"] == on_demand["resources"]
        assert spot["labels"].pop("ray.io/market-type") == "spot"
        assert on_demand["labels"].pop("ray.io/market-type") == "on-demand"
        assert spot["labels"] == on_demand["labels"]
    assert all(("GPU" in each["resources"]) == name.startswith("gpu") for name, each in types.items())


@pytest.mark.parametrize("name", CLOUDS)
def test_the_autoscaler_takes_spot_first_and_on_demand_where_there_is_none(repo, name):
    cluster = read(repo, name)
    types = {kind: each for kind, each in cluster["available_node_types"].items() if kind != "head"}

    def starts(demand: dict[str, float], count: int = 1, missing: str | None = None) -> dict[str, int]:
        return nodes_started(types, [demand] * count, most=cluster["max_workers"], missing=missing)

    assert starts({"CPU": 1}) == {"cpu_spot": 1}
    assert starts({"CPU": 1, "GPU": 1}) == {"gpu_spot": 1}
    assert starts({"CPU": 1}, missing="cpu_spot") == {"cpu_on_demand": 1}
    assert starts({"CPU": 1, "GPU": 1}, missing="gpu_spot") == {"gpu_on_demand": 1}
    # 32 environment actors of one CPU fill two nodes; a demand without an end stops at the hard limit.
    assert starts({"CPU": 1}, count=32) == {"cpu_spot": 2}
    assert sum(starts({"CPU": 16}, count=100).values()) == cluster["max_workers"]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_nodes_get_the_pinned_packages_with_extras_that_exist(repo, name):
    cluster = read(repo, name)
    extras = set(tomllib.loads((repo / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    (install,) = (line for line in cluster["setup_commands"] if "install --quiet -c" in line)
    assert "-c ~/jepawm/constraints.txt" in install
    assert extras_of(install) == extras - {"test", "lint"}
    if "docker" in cluster:
        assert cluster["docker"]["image"] == f"rayproject/ray:{pinned(repo, 'ray')}-py311-cpu"


def test_the_image_has_what_the_nodes_of_the_launcher_get(repo):
    text = (repo / "docs/clusters/Dockerfile").read_text()
    cluster = read(repo, "cluster.yaml")
    assert f"FROM {cluster['docker']['image']}\n" in text
    (install,) = (line for line in cluster["setup_commands"] if "pip install" in line)
    assert extras_of(text) == extras_of(install)
    (packages,) = (line for line in cluster["setup_commands"] if "apt-get" in line)
    assert all(word in text for word in packages.split() if word.startswith("lib"))
    for variable in re.findall(r"-e (RAY_\w+=\w+|NVIDIA_\w+=[\w,]+)", " ".join(cluster["docker"]["run_options"])):
        assert variable in text
    copied = {word for line in re.findall(r"^COPY --chown=\S+ (.*) \S+$", text, re.MULTILINE) for word in line.split()}
    assert all((repo / path).exists() for path in copied)
    sent = (repo / "docs/clusters/Dockerfile.dockerignore").read_text().splitlines()
    assert {line[1:] for line in sent if line.startswith("!")} == copied


def test_no_file_that_starts_a_cluster_holds_a_secret_or_opens_a_port_to_everybody(repo):
    for path in [repo / "cluster.yaml", *sorted((repo / "docs/clusters").iterdir())]:
        text = path.read_text()
        assert "0.0.0.0/0" not in text
        assert not re.search(r"RAY_AUTH_MODE\W*disabled|RAY_AUTH_TOKEN=\w", text)
        assert not re.search(r"(AKIA|hf_)\w{10,}", text)
