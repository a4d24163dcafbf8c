"""Where the processes of a run go, and which runs a cluster cannot hold; without a Ray."""

from dataclasses import replace
from typing import Any

import pytest

from jepawm.config import DataConfig, EnvConfig, EvaluationConfig, RunConfig, ScalingConfig, TrainConfig
from jepawm.errors import ConfigError
from jepawm.runs.placement import Cluster, NodeType, PlacementPlan, place_run
from jepawm.runs.placement.demand import Claim, Demand

HEAD = NodeType("head", {"CPU": 0.0})
CPU_SPOT = NodeType("cpu-spot", {"CPU": 16.0}, {"ray.io/market-type": "spot"}, 8)
A10G = {"ray.io/accelerator-type": "A10G"}
GPU_SPOT = NodeType("gpu-spot", {"CPU": 8.0, "GPU": 1.0}, {"ray.io/market-type": "spot"} | A10G, 4)
GPU = replace(GPU_SPOT, name="gpu", labels={"ray.io/market-type": "on-demand"}, count=2)
# A head that only manages, and an autoscaler that can start the rest.
ASLEEP = Cluster((HEAD,), (CPU_SPOT, GPU_SPOT), 12)
EVERYTHING = ("collect", "train", "evaluate")


def planned(
    cluster: Cluster, stages: Any = EVERYTHING, *, driver_has_gpu: bool = False, **changes: Any
) -> PlacementPlan:
    scaling = {key: changes.pop(key) for key in list(changes) if key in ScalingConfig.__dataclass_fields__}
    config = RunConfig(scaling=ScalingConfig(**scaling), train=TrainConfig(batch_size=128), **changes)
    return place_run(config, stages, cluster, driver_has_gpu=driver_has_gpu)


def test_a_sleeping_cluster_is_woken_for_what_the_run_asks() -> None:
    plan = planned(ASLEEP, num_workers=2, num_env_actors=64)
    assert plan.lines() == [
        "64 environment actors, 1 CPU each: on 4 cpu-spot (to be started)",
        "2 training workers, 1 CPU and 1 GPU each: on 2 gpu-spot (to be started); they compute on the GPU",
        "driver: plans and held-out prediction, on the CPU (scaling.num_planner_hosts moves plans to the cluster)",
    ]


def test_planner_hosts_claim_gpus_that_can_be_started_and_play_in_actors_of_their_own() -> None:
    plan = planned(ASLEEP, num_workers=2, num_env_actors=64, num_planner_hosts=4, device="cuda")
    assert plan.lines() == [
        # CPUs of nodes that are started for the hosts are taken before further nodes are.
        "128 environment actors, 1 CPU each: on 4 gpu-spot (to be started), on 7 cpu-spot (to be started); half of "
        "them play for the planner hosts",
        "2 training workers, 1 CPU and 1 GPU each: on 2 gpu-spot (to be started); they compute on the GPU",
        "4 planner hosts, 1 CPU and 1 GPU each: on 4 gpu-spot (to be started); they compute on the GPU",
        "driver: held-out prediction, on the CPU",
    ]
    # Eight hosts on four GPUs share them.
    assert Demand(ScalingConfig(num_planner_hosts=8, num_env_actors=8), "auto", ASLEEP).planner_host().gpus == 0.5


def test_nodes_that_run_are_used_first_and_those_with_gpus_last() -> None:
    running = Cluster((HEAD, replace(GPU_SPOT, count=1), replace(CPU_SPOT, count=1)), (CPU_SPOT, GPU_SPOT), 12)
    actors, worker = planned(running, num_env_actors=16).roles
    assert (actors.running, actors.started) == ({"cpu-spot": (16, 1)}, {})
    assert (worker.running, worker.started) == ({"gpu-spot": (1, 1)}, {})
    # Actors are spread over what runs, and GPU nodes take them before a node has to be started.
    (actors,) = planned(running, ("collect",), num_env_actors=40).roles
    assert (actors.running, actors.started) == ({"cpu-spot": (16, 1), "gpu-spot": (8, 1)}, {"cpu-spot": (16, 1)})


def test_labels_and_the_kind_of_gpu_choose_nodes() -> None:
    cluster = Cluster((HEAD,), (CPU_SPOT, GPU_SPOT, GPU))
    for labels, chosen in (("on-demand", "gpu"), ("!on-demand", "gpu-spot"), ("in(on-demand,reserved)", "gpu")):
        (worker,) = planned(cluster, ("train",), worker_labels=(f"ray.io/market-type={labels}",)).roles
        assert list(worker.started) == [chosen]
    (worker,) = planned(cluster, ("train",), accelerator_type="A10G").roles
    assert "1 CPU and 1 GPU each, ray.io/accelerator-type=A10G: on 1 gpu-spot" in worker.words()
    with pytest.raises(
        ConfigError, match="accelerator_type 'H100' asks for GPUs, and the cluster has none of that kind"
    ):
        planned(cluster, ("train",), accelerator_type="H100")
    with pytest.raises(ConfigError, match=r"chooses a kind of GPU, and device 'cpu' claims none; .*gpus_per_worker 1"):
        planned(cluster, ("train",), accelerator_type="A10G", device="cpu")
    with pytest.raises(ConfigError, match=r"no node .* holds one of the environment actors \(1 CPU each, zone=b\)"):
        planned(cluster, ("collect",), env_actor_labels=("zone=b",))


@pytest.mark.parametrize(
    ("changes", "cluster", "message"),
    [
        (
            {"num_workers": 4},
            Cluster((HEAD, replace(GPU_SPOT, count=1)), (replace(GPU_SPOT, count=1),)),
            r"scaling.num_workers: 4 training workers x 1 GPU = 4 GPUs; there are 1 x gpu-spot \(8 CPUs, 1 GPU\), "
            r"1 x gpu-spot \(8 CPUs, 1 GPU, startable\); at most 2 fit",
        ),
        (
            {"num_workers": 2, "gpus_per_worker": 1},
            Cluster((CPU_SPOT,)),
            r"scaling.num_workers: no node of the cluster, running or startable, holds one of the training workers "
            r"\(1 CPU and 1 GPU each\); there are 8 x cpu-spot \(16 CPUs\)",
        ),
        ({"device": "cuda"}, Cluster((CPU_SPOT,)), r"device 'cuda' asks for GPUs, and the cluster has none"),
        (
            {"num_env_actors": 200, "env_actor_labels": ("ray.io/market-type=spot",)},
            Cluster((HEAD,), (CPU_SPOT,), 12),
            r"scaling.num_env_actors: 200 environment actors x 1 CPU = 200 CPUs; there are 8 x cpu-spot",
        ),
        ({"cpus_per_worker": 32}, Cluster((CPU_SPOT,)), r"holds one of the training workers \(32 CPUs each\)"),
        (
            {"num_env_actors": 2, "evaluation": EvaluationConfig(every_num_train_steps=500)},
            Cluster((NodeType("node", {"CPU": 2.0}),)),
            r"2 environment actors do not fit beside the other processes that run at the same time: 1 training worker "
            r"x 1 \+ 2 environment actors x 1 = 3 CPUs; there are 1 x node \(2 CPUs\)",
        ),
        (
            {"num_workers": 4, "num_env_actors": 2},
            Cluster((HEAD,), (CPU_SPOT, GPU_SPOT), 3),
            r"4 training workers x 1 GPU = 4 GPUs; .*, at most 3 nodes may be added",
        ),
    ],
)
def test_what_a_cluster_cannot_hold_is_refused_with_the_sums(
    changes: dict[str, Any], cluster: Cluster, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        planned(cluster, **changes)


def test_without_gpus_the_plan_says_that_workers_compute_on_cpus() -> None:
    (worker,) = planned(Cluster((replace(CPU_SPOT, count=2),)), ("train",), num_workers=2).roles
    assert worker.words() == (
        "2 training workers, 1 CPU each: on 2 cpu-spot; there are no GPUs for them, so they compute on the CPU with "
        "their share of a node's CPUs"
    )
    # GPUs may be left alone, and a GPU may be claimed for something else than torch.
    for changes, expected in (({"gpus_per_worker": 0}, 0), ({"device": "cpu"}, 0), ({"gpus_per_worker": 1}, 1)):
        (worker,) = planned(ASLEEP, ("train",), **changes).roles
        assert worker.role.claim.gpus == expected
    (worker,) = planned(ASLEEP, ("train",), device="cpu", gpus_per_worker=1, cpus_per_worker=2).roles
    assert worker.words().endswith(
        "2 CPUs and 1 GPU each: on 1 gpu-spot (to be started); they compute on the CPU with 2 threads"
    )


def test_an_elastic_training_needs_room_for_its_fewest_workers_alone() -> None:
    cluster = Cluster((replace(GPU_SPOT, count=2),))
    (worker,) = planned(cluster, ("train",), num_workers=8, min_workers=2).roles
    assert (worker.running, worker.unplaced) == ({"gpu-spot": (2, 2)}, 6)
    assert worker.words().startswith(
        "2 to 8 training workers, 1 CPU and 1 GPU each: on 2 gpu-spot, 6 of them where more"
    )
    with pytest.raises(ConfigError, match=r"4 training workers x 1 GPU = 4 GPUs"):
        planned(cluster, ("train",), num_workers=8, min_workers=4)


def test_where_an_autoscaler_keeps_its_plans_to_itself_gpus_have_to_be_stated() -> None:
    unknown = Cluster((HEAD,), None)
    with pytest.raises(
        ConfigError, match=r"0 GPUs run, and what the autoscaler .* is not known here.*gpus_per_worker 1"
    ):
        planned(unknown, ("train",))
    (worker,) = planned(unknown, ("train",), gpus_per_worker=1).roles
    assert worker.unplaced == 1
    assert "1 on nodes that the autoscaler may start (which, is not known here)" in worker.words()
    # GPUs that run are enough to know.
    (worker,) = planned(Cluster((GPU,), None), ("train",), num_workers=2).roles
    assert worker.running == {"gpu": (2, 2)}


def test_a_driver_that_plans_on_a_gpu_has_one() -> None:
    with pytest.raises(ConfigError, match=r"the driver, which plans .* has no GPU; pass --scaling.num-planner-hosts 1"):
        planned(ASLEEP, device="cuda")
    assert planned(ASLEEP, device="cuda", driver_has_gpu=True).driver.startswith(
        "plans and held-out prediction, on the GPU"
    )
    assert planned(ASLEEP, ("collect", "train"), device="cuda").driver == "it computes nothing"


@pytest.mark.parametrize("num_cpus", [1.0, 2.0, 3.0, 64.0])
@pytest.mark.parametrize(
    "scaling", [ScalingConfig(), ScalingConfig(num_workers=4, num_env_actors=6, num_planner_hosts=3)]
)
def test_on_a_ray_of_its_own_all_processes_of_a_run_fit_at_the_same_time(
    num_cpus: float, scaling: ScalingConfig
) -> None:
    cluster = Cluster((NodeType("node", {"CPU": num_cpus}),), is_own=True)
    demand = Demand(scaling, "auto", cluster)
    pools = 2 if scaling.num_planner_hosts else 1
    hosts = scaling.num_planner_hosts
    claimed = scaling.num_workers * demand.worker().cpus + pools * scaling.num_env_actors * demand.env_actor().cpus
    claimed += hosts * demand.planner_host().cpus if hosts else 0
    # As Ray counts, in ten-thousandths; a task of Ray Data has a CPU beside them.
    assert round(claimed, 4) <= max(num_cpus - 1, 1)
    assert num_cpus < 64 or demand.worker().cpus == 1
    beside = RunConfig(
        scaling=scaling,
        data=DataConfig(loader="stream" if num_cpus > 1 else "cache"),
        train=TrainConfig(batch_size=128),
        evaluation=EvaluationConfig(every_num_train_steps=500),
    )
    place_run(beside, EVERYTHING, cluster, driver_has_gpu=False)
    # Encode actors fill the cores.
    assert demand.num_encode_actors(100) == max(1, int(num_cpus))
    assert demand.num_encode_actors(100) * demand.worker().cpus <= num_cpus


def test_threads_of_planner_hosts_are_their_share_of_a_node() -> None:
    hosts = ScalingConfig(num_planner_hosts=4, num_env_actors=4)
    for cluster, threads in (
        (Cluster((HEAD, replace(CPU_SPOT, count=2))), 8),
        (Cluster((HEAD, replace(CPU_SPOT, count=8))), 16),
        # Nodes that are started are filled one after the other.
        (Cluster((HEAD,), (CPU_SPOT,)), 4),
    ):
        assert Demand(hosts, "cpu", cluster).threads_of_planner_host() == threads
    assert Demand(replace(hosts, cpus_per_planner_host=3), "cpu", ASLEEP).threads_of_planner_host() == 3


def test_encode_actors_are_as_many_as_there_are_gpus_and_workers_where_none_runs() -> None:
    running = Cluster((replace(GPU_SPOT, count=3),))
    for scaling, cluster, expected in (
        (ScalingConfig(num_workers=2), running, 3),
        (ScalingConfig(num_workers=2), ASLEEP, 2),
        (ScalingConfig(num_workers=2, num_encode_actors=4), ASLEEP, 4),
        (ScalingConfig(gpus_per_worker=0), running, 24),
        # Four GPUs, and CPUs for two of them.
        (ScalingConfig(cpus_per_worker=4), Cluster((NodeType("big", {"CPU": 8.0, "GPU": 4.0}),)), 2),
    ):
        assert Demand(scaling, "auto", cluster).num_encode_actors(100) == expected
    assert Demand(ScalingConfig(), "auto", running).num_encode_actors(1) == 1


def test_a_run_without_an_environment_places_no_environment_actors() -> None:
    config = RunConfig(
        env=EnvConfig(id="none"),
        data=replace(RunConfig().data, source="dataset", path="somewhere"),
        evaluation=EvaluationConfig(goal_source="sampler"),
    )
    plan = place_run(config, EVERYTHING, ASLEEP, driver_has_gpu=False)
    assert [placement.role.name for placement in plan.roles] == ["training worker"]
    assert plan.driver == "held-out prediction, on the CPU"


def test_claims_are_options_of_ray() -> None:
    claim = Claim(2, 0.5, {"zone": "in(a,b)"})
    assert claim.options() == {
        "num_cpus": 2,
        "num_gpus": 0.5,
        "label_selector": {"zone": "in(a,b)"},
    }
    assert Claim(1).options() == {"num_cpus": 1}


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"worker_labels": ("spot",)}, r"scaling.worker_labels: expected KEY=VALUE .* found 'spot'"),
        ({"env_actor_labels": ("zone=in(a,",)}, r"scaling.env_actor_labels: expected KEY=VALUE"),
        ({"planner_host_labels": ("zone=a", "zone=b")}, r"the label 'zone' is given twice; use zone=in\(a,b\)"),
        ({"gpus_per_worker": 2}, r"scaling.gpus_per_worker must be 0 or 1, found 2; more GPUs are more workers"),
        ({"cpus_per_env_actor": 0}, r"scaling.cpus_per_env_actor must be above 0"),
    ],
)
def test_claims_that_make_no_sense_are_refused(scaling: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ScalingConfig(**scaling)
