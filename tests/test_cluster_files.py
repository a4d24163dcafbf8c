"""The files that start clusters, against the Ray that is installed: launcher files, Kubernetes, SLURM, the image."""

import importlib
import os
import re
import shlex
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

LAUNCHERS = ["cluster.yaml", "docs/clusters/gcp.yaml", "docs/clusters/on_premise.yaml"]
CLOUDS = LAUNCHERS[:2]
KUBERNETES = ["docs/clusters/kuberay_cluster.yaml", "docs/clusters/kuberay_job.yaml"]
# What is written into these files by hand.
TO_FILL_IN = re.compile(r"(ami|sg|fs)-0{17}")


def read(repo: Path, name: str) -> Any:
    return yaml.safe_load((repo / name).read_text("utf-8"))


def extras_of(text: str) -> set[str]:
    (named,) = re.findall(r"(?:jepawm|\.)\[([\w,]+)\]", text)
    return set(named.split(","))


def pinned(repo: Path, package: str) -> str:
    (version,) = re.findall(rf"^{package}==(\S+)$", (repo / "constraints.txt").read_text(), flags=re.MULTILINE)
    return version


def ray_start_options(command: str) -> dict[str, Any]:
    """The options of the `ray start` in a shell command, as the installed Ray understands them."""
    from ray.scripts.scripts import start

    (words,) = re.findall(r"ray start (.*)", command)
    return start.make_context("start", shlex.split(words)).params


# ---------------------------------------------------------------------------------------------- the cluster launcher


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
    scheduler = pytest.importorskip("ray.autoscaler.v2.scheduler")
    from ray.autoscaler.v2.instance_manager.config import NodeTypeConfig
    from ray.autoscaler.v2.utils import ResourceRequestUtil

    cluster = read(repo, name)
    types = {
        kind: NodeTypeConfig(
            name=kind,
            min_worker_nodes=0,
            max_worker_nodes=each["max_workers"],
            priority=each.get("priority", 0),
            resources=each["resources"],
            labels=each["labels"],
        )
        for kind, each in cluster["available_node_types"].items()
        if kind != cluster["head_node_type"]
    }

    def launched(demand: dict[str, float], *, count: int = 1, missing: str | None = None) -> dict[str, int]:
        request = scheduler.SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=types,
            max_num_nodes=cluster["max_workers"],
            resource_requests=ResourceRequestUtil.group_by_count([ResourceRequestUtil.make(demand)] * count),
            # What the autoscaler notes after it failed to start a node of a type.
            cloud_resource_availabilities={missing: 0.0} if missing else {},
            recoverable_resource_availabilities={missing: 0.0} if missing else {},
        )
        # The first argument reports events to Ray's log.
        reply = scheduler.ResourceDemandScheduler(None).schedule(request)
        return {each.instance_type: each.count for each in reply.to_launch}

    assert launched({"CPU": 1}) == {"cpu_spot": 1}
    assert launched({"CPU": 1, "GPU": 1}) == {"gpu_spot": 1}
    assert launched({"CPU": 1}, missing="cpu_spot") == {"cpu_on_demand": 1}
    assert launched({"CPU": 1, "GPU": 1}, missing="gpu_spot") == {"gpu_on_demand": 1}
    # 32 environment actors of one CPU fill two nodes; a demand without an end stops at the hard limit.
    assert launched({"CPU": 1}, count=32) == {"cpu_spot": 2}
    assert sum(launched({"CPU": 16}, count=100).values()) == cluster["max_workers"]


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


def test_the_nodes_of_aws_have_a_security_group_of_their_own_and_encrypted_disks(repo):
    cluster = read(repo, "cluster.yaml")
    for node in cluster["available_node_types"].values():
        config = node["node_config"]
        # Without its own group, Ray makes one that lets every address connect by SSH.
        assert config["SecurityGroupIds"]
        assert config["ImageId"].startswith("ami-")
        assert config["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in config["BlockDeviceMappings"])
    assert set(TO_FILL_IN.findall((repo / "cluster.yaml").read_text())) == {"ami", "sg", "fs"}


AWS = r"""#!/usr/bin/env bash
# Stands for the command line of AWS: an account that has a default VPC with two subnets and nothing else.
echo "$*" >> "$CALLS"
case "$*" in
  *"ssm get-parameter"*) echo ami-1a ;;
  *describe-vpcs*) echo "${VPC:-vpc-1}" ;;
  *"describe-security-groups --filters"*) echo "${GROUP:-None}" ;;
  *create-security-group*) echo sg-2b ;;
  *"describe-security-groups --group-ids"*) echo "${ALLOWED:-}" ;;
  *LifeCycleState*) echo available ;;
  *describe-file-systems*) echo "${FILES:-None}" ;;
  *create-file-system*) echo fs-3c ;;
  *describe-mount-targets*) echo "${MOUNTED:-}" ;;
  *describe-subnets*) printf 'subnet-1\tsubnet-2\n' ;;
esac
"""


def program(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def programs(tmp_path: Path, monkeypatch) -> Path:
    """A folder that comes first in PATH; `calls` in it is what `$CALLS` names."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CALLS", str(folder / "calls"))
    return folder


def prepare_aws(repo: Path, programs: Path, **account: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    calls = programs / "calls"
    calls.write_text("")
    command = ["bash", str(repo / "docs/clusters/aws_prepare.sh"), "eu-west-1", "198.51.100.7"]
    done = subprocess.run(command, env=os.environ | account, capture_output=True, text=True)
    return done, calls.read_text().splitlines()


def test_an_aws_account_is_prepared_once_and_the_file_gets_its_ids(repo, programs):
    program(programs, "aws", AWS)
    done, calls = prepare_aws(repo, programs)
    assert done.returncode == 0, done.stderr
    cluster = yaml.safe_load(done.stdout)
    assert not TO_FILL_IN.search(done.stdout)
    assert cluster["provider"]["region"] == "eu-west-1"
    node = cluster["available_node_types"]["gpu_spot"]["node_config"]
    assert (node["ImageId"], node["SecurityGroupIds"]) == ("ami-1a", ["sg-2b"])
    assert any("fs-3c.efs.eu-west-1.amazonaws.com:/" in command for command in cluster["initialization_commands"])
    opened = [call for call in calls if "authorize-security-group-ingress" in call]
    assert len(opened) == 2
    assert opened[0].endswith("--group-id sg-2b --protocol all --source-group sg-2b")
    assert opened[1].endswith("--group-id sg-2b --protocol tcp --port 22 --cidr 198.51.100.7/32")
    assert any("create-file-system" in call and "--encrypted" in call for call in calls)
    targets = [call for call in calls if "create-mount-target" in call]
    assert ["--subnet-id subnet-1 " in call for call in targets] == [True, False]
    assert all("--security-groups sg-2b" in call for call in targets)
    assert all(call.startswith("--region eu-west-1 ") for call in calls)


def test_preparing_again_makes_nothing_twice_and_lets_a_new_address_in(repo, programs):
    program(programs, "aws", AWS)
    account = {"GROUP": "sg-2b", "FILES": "fs-3c", "MOUNTED": "subnet-1\tsubnet-2"}
    done, calls = prepare_aws(repo, programs, **account, ALLOWED="198.51.100.7/32")
    assert done.returncode == 0, done.stderr
    assert not [call for call in calls if re.search(r"create-|authorize-", call)]
    # Not the beginning of another address.
    done, calls = prepare_aws(repo, programs, **account, ALLOWED="198.51.100.70/32")
    assert len([call for call in calls if "authorize-" in call]) == 1
    done, _ = prepare_aws(repo, programs, VPC="None")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "has no default VPC" in done.stderr


# ------------------------------------------------------------------------------------------------------- Kubernetes

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


# ------------------------------------------------------------------------------------------------------------ SLURM

SLURM = {
    "scontrol": '#!/usr/bin/env bash\n[ "$*" = "show hostnames node[1-2]" ] && printf "node1\\nnode2\\n"\n',
    # Runs what it is given once, as a job of one node would.
    "srun": '#!/usr/bin/env bash\necho "srun $*" >> "$CALLS"\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n',
    "hostname": '#!/usr/bin/env bash\n[ "$*" = "--ip-address" ] && echo "10.0.0.1 fe80::1"\n',
    "ray": """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$CALLS.ray"
{ env | grep -E '^(RAY|JEPAWM)_' | sort; echo "token $(cat "$RAY_AUTH_TOKEN_PATH")"
  echo "mode $(stat -c %a "$RAY_AUTH_TOKEN_PATH")"; } > "$CALLS.env"
""",
}


@pytest.fixture
def slurm(programs: Path, tmp_path: Path, monkeypatch) -> Path:
    for name, text in SLURM.items():
        program(programs, name, text)
    program(programs, "python", f'#!/usr/bin/env bash\nexec "{sys.executable}" "$@"\n')
    variables = {"SLURM_JOB_ID": "4242", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "node[1-2]"}
    for name, value in {**variables, "SLURM_CPUS_PER_TASK": "16", "SLURM_GPUS_ON_NODE": "1", "USER": "ada"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("JEPAWM_CACHE")
    monkeypatch.delenv("TMPDIR", raising=False)
    return programs


def run_slurm(repo: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(repo / "docs/clusters/slurm.sh"), *words]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_slurm_job_runs_one_command_on_a_ray_of_its_own_with_a_token_of_its_own(repo, slurm, tmp_path):
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    tokens = set()
    for words in ((), ("jepawm", "doctor", "--cluster")):
        done = run_slurm(repo, *words)
        assert done.returncode == 0, done.stderr
        called = (slurm / "calls.ray").read_text().splitlines()
        assert called[0] == "symmetric-run"
        at = called.index("--")
        ours = list(words) or ["jepawm", "train", "--scaling.num-workers", "2"]
        assert called[at + 1 :] == ["env", "RAY_ADDRESS=10.0.0.1:24242", *ours]
        rest = curate_and_validate_ray_start_args(called[1:at])
        options = start.make_context("start", rest).params
        assert (options["num_cpus"], options["num_gpus"], options["temp_dir"]) == (16, 1, "/tmp/ray-4242")
        assert called[1:5] == ["--address", "10.0.0.1:24242", "--min-nodes", "2"]
        seen = (slurm / "calls.env").read_text().splitlines()
        assert "RAY_AUTH_MODE=token" in seen
        assert f"JEPAWM_HOME={tmp_path / 'home'}" in seen
        assert "JEPAWM_CACHE=/tmp/jepawm-ada" in seen
        assert "mode 600" in seen
        (token,) = (line.split()[1] for line in seen if line.startswith("token "))
        assert len(token) == 64
        tokens.add(token)
        assert list((tmp_path / "home").iterdir()) == []
    assert len(tokens) == 2
    assert "srun --nodes=1 --ntasks=1 --nodelist=node1 hostname --ip-address" in (slurm / "calls").read_text()


def test_the_slurm_job_fails_with_its_command_and_needs_a_home(repo, slurm, monkeypatch):
    program(slurm, "ray", "#!/usr/bin/env bash\nexit 3\n")
    assert run_slurm(repo).returncode == 3
    monkeypatch.delenv("JEPAWM_HOME")
    refused = run_slurm(repo)
    assert refused.returncode != 0
    assert "set it to a folder on the file system that all nodes share" in refused.stderr


def test_the_slurm_job_asks_for_nodes_that_no_other_job_shares(repo):
    text = (repo / "docs/clusters/slurm.sh").read_text()
    asked = dict(re.findall(r"^#SBATCH --([\w-]+)=?(\S*)$", text, flags=re.MULTILINE))
    assert {"nodes", "ntasks-per-node", "exclusive", "time", "cpus-per-task"} <= set(asked)
    assert asked["ntasks-per-node"] == "1"
    assert hasattr(importlib.import_module("ray.scripts.symmetric_run"), "symmetric_run")
    assert "CLUSTER_WAIT_TIMEOUT" in text


def test_no_file_that_starts_a_cluster_holds_a_secret_or_opens_a_port_to_everybody(repo):
    for path in [repo / "cluster.yaml", *sorted((repo / "docs/clusters").iterdir())]:
        text = path.read_text()
        assert "0.0.0.0/0" not in text
        assert not re.search(r"RAY_AUTH_MODE\W*disabled|RAY_AUTH_TOKEN=\w", text)
        assert not re.search(r"(AKIA|hf_)\w{10,}", text)
