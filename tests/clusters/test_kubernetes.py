"""The Kubernetes manifests: fields that KubeRay knows, and what the installed Ray derives from them."""

import shlex
from typing import Any

import pytest
import yaml
from cluster_files import KUBERNETES, nodes_started, pinned, read

# Fields of KubeRay 1.5.1 and of a pod that the manifests use, with their types; an unknown field is an error there.
ENV = [{"name": str, "value": str}]
POD = {
    "restartPolicy": str,
    "nodeSelector": {"*": str},
    "containers": [
        {
            "name": str,
            "image": str,
            "env": ENV,
            "resources": {"limits": {"*": str}, "requests": {"*": str}},
            "volumeMounts": [{"name": str, "mountPath": str}],
        }
    ],
    "volumes": [
        {"name": str, "persistentVolumeClaim": {"claimName": str}, "emptyDir": {"medium": str, "sizeLimit": str}}
    ],
}
GROUP = {"rayStartParams": {"*": str}, "labels": {"*": str}, "template": {"spec": POD}}
RAY_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str},
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {"version": str, "idleTimeoutSeconds": int, "upscalingMode": str},
    "headGroupSpec": GROUP | {"serviceType": str},
    "workerGroupSpecs": [GROUP | {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int}],
}
RAY_JOB = {
    "entrypoint": str,
    "submissionMode": str,
    "backoffLimit": int,
    "shutdownAfterJobFinishes": bool,
    "ttlSecondsAfterFinished": int,
    "activeDeadlineSeconds": int,
    "rayClusterSpec": RAY_CLUSTER,
}
OBJECT = {"apiVersion": str, "kind": str, "metadata": {"name": str, "generateName": str}}
KINDS = {"RayCluster": OBJECT | {"spec": RAY_CLUSTER}, "RayJob": OBJECT | {"spec": RAY_JOB}}
CHOICES = {"mode": "token", "version": "v2", "upscalingMode": "Default", "submissionMode": "K8sJobMode"}


def wrong_fields(value: Any, fields: Any, path: str = "") -> list[str]:
    """What an API server would refuse: unknown fields and values of another type."""
    if isinstance(fields, type):
        # In Python a bool is an int as well.
        return [] if type(value) is fields else [f"{path} is {value!r}, expected {fields.__name__}"]
    if isinstance(fields, list):
        if not isinstance(value, list):
            return [f"{path} is no list"]
        return [line for i, item in enumerate(value) for line in wrong_fields(item, fields[0], f"{path}[{i}]")]
    if not isinstance(value, dict):
        return [f"{path} is no mapping"]
    found = []
    for key, item in value.items():
        known = fields.get(key, fields.get("*"))
        found += [f"{path}.{key} is unknown"] if known is None else wrong_fields(item, known, f"{path}.{key}")
        if key in CHOICES and item != CHOICES[key]:
            found.append(f"{path}.{key} is {item!r}, expected {CHOICES[key]!r}")
    return found


@pytest.mark.parametrize("name", KUBERNETES)
def test_a_manifest_has_only_fields_that_kuberay_knows(repo, name):
    manifest = read(repo, name)
    assert manifest["apiVersion"] == "ray.io/v1"
    assert wrong_fields(manifest, KINDS[manifest["kind"]]) == []
    spoilt = yaml.safe_load((repo / name).read_text().replace("minReplicas", "minReplica", 1))
    assert len(wrong_fields(spoilt, KINDS[manifest["kind"]])) == 1
    spoilt = yaml.safe_load((repo / name).read_text().replace("maxReplicas: 8", 'maxReplicas: "8"', 1))
    assert len(wrong_fields(spoilt, KINDS[manifest["kind"]])) == 1


def test_ray_derives_the_node_types_of_aws_from_the_manifests_and_both_have_one_cluster(repo):
    config = pytest.importorskip("ray.autoscaler._private.kuberay.autoscaling_config")

    cluster, job = (read(repo, name) for name in KUBERNETES)
    assert job["spec"]["rayClusterSpec"] == cluster["spec"]
    assert cluster["spec"]["rayVersion"] == pinned(repo, "ray")
    cluster["metadata"]["namespace"] = "default"
    derived = config._derive_autoscaling_config_from_ray_cr(cluster)
    assert derived["idle_timeout_minutes"] == 5
    types = derived["available_node_types"]
    head = types.pop(derived["head_node_type"])
    assert head["resources"]["CPU"] == 0
    of_aws = read(repo, "cluster.yaml")["available_node_types"]
    assert {name.replace("-", "_") for name in types} == set(of_aws) - {"head"}
    for name, each in types.items():
        same = of_aws[name.replace("-", "_")]
        assert (each["min_workers"], each["max_workers"]) == (0, same["max_workers"])
        assert each["labels"]["ray.io/market-type"] == same["labels"]["ray.io/market-type"]
        assert each["resources"].get("GPU") == same["resources"].get("GPU")
        assert 0 < each["resources"]["CPU"] <= same["resources"]["CPU"]
    # Without priorities, which KubeRay knows from 1.7 on, the group that is listed first is taken first.
    for demand, kind in (({"CPU": 1}, "cpu"), ({"CPU": 1, "GPU": 1}, "gpu")):
        assert nodes_started(types, [demand], most=12) == {f"{kind}-spot": 1}
        assert nodes_started(types, [demand], most=12, missing=f"{kind}-spot") == {f"{kind}-on-demand": 1}


def test_every_pod_has_the_shared_home_a_cache_of_its_own_and_room_for_rays_objects(repo):
    spec = read(repo, KUBERNETES[0])["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        (container,) = pod["containers"]
        places = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        variables = {each["name"]: each["value"] for each in container["env"]}
        assert "persistentVolumeClaim" in places[variables["JEPAWM_HOME"]]
        assert "emptyDir" in places[variables["JEPAWM_CACHE"]]
        assert places["/dev/shm"]["emptyDir"]["medium"] == "Memory"


def test_the_entrypoint_of_the_job_is_a_command_of_jepawm(repo):
    from jepawm.config import RunConfig
    from jepawm.config.command_line import parse

    program, command, *words = shlex.split(read(repo, KUBERNETES[1])["spec"]["entrypoint"])
    assert (program, command) == ("jepawm", "train")
    config, recipe = parse(words)
    assert isinstance(config, RunConfig)
    assert recipe == "pusht"
