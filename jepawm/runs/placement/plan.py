"""One plan of where the processes of a run go, made and checked before anything is collected or trained."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jepawm.config import RunConfig
from jepawm.config.pretrain import PretrainConfig
from jepawm.console import Console
from jepawm.errors import ConfigError
from jepawm.runs.placement.demand import Claim, Demand, Role
from jepawm.runs.placement.nodes import Cluster, NodeType, holds, number_held

Stage = Literal["collect", "encode", "train", "evaluate"]
_STAGES: tuple[Stage, ...] = ("collect", "encode", "train", "evaluate")


@dataclass(frozen=True)
class RolePlacement:
    """Where the processes of one role go.

    Attributes:
        role: What they are and claim.
        running: Name of a node type -> (processes on nodes that run already, those nodes).
        started: The same on nodes that the autoscaler has to start.
        unplaced: Processes that no known node holds; the autoscaler may know one, or an elastic training does without.
    """

    role: Role
    running: Mapping[str, tuple[int, int]]
    started: Mapping[str, tuple[int, int]]
    unplaced: int = 0

    def words(self) -> str:
        """`64 environment actors, 1 CPU each: on 8 cpu-spot (to be started)`."""
        places = [f"on {nodes} {name}" for name, (_, nodes) in self.running.items()]
        places += [f"on {nodes} {name} (to be started)" for name, (_, nodes) in self.started.items()]
        if self.unplaced and self.role.needed == self.role.count:
            places.append(f"{self.unplaced} on nodes that the autoscaler may start (which, is not known here)")
        elif self.unplaced:
            places.append(f"{self.unplaced} of them where more nodes appear")
        remark = f"; {self.role.remark}" if self.role.remark else ""
        return f"{_counted(self.role)}, {self.role.claim.words()}: {', '.join(places)}{remark}"


@dataclass(frozen=True)
class PlacementPlan:
    """Where the processes of a run go.

    Attributes:
        roles: One entry for each kind of process.
        driver: What this process itself computes, and where.
    """

    roles: tuple[RolePlacement, ...]
    driver: str

    def lines(self) -> list[str]:
        """One line for each role, and one for the driver."""
        return [*(placement.words() for placement in self.roles), f"driver: {self.driver}"]


def place_run(config: RunConfig, stages: Collection[Stage], cluster: Cluster, *, driver_has_gpu: bool) -> PlacementPlan:
    """Places the processes of a run, and refuses a run that the cluster cannot hold.

    Nodes that others use now count as free, because a run waits for them.

    Args:
        config: The resolved configuration.
        stages: What runs.
        cluster: What there is, and what can be started.
        driver_has_gpu: Whether torch finds a GPU in this process.

    Raises:
        ConfigError: Processes that fit on no node, or are too many, with the sums; GPUs that are asked for and that
            neither run nor can be started.
    """
    demand = Demand(config.scaling, config.device, cluster)
    _check_gpus(demand, stages)
    _check_driver(config, stages, driver_has_gpu=driver_has_gpu)
    # A role is told once, as it is in the stage that needs most of it.
    found: dict[str, RolePlacement] = {}
    for stage in _STAGES:
        if stage in stages:
            for placement in _place(_roles(config, stage, stages, demand), cluster):
                name, known = placement.role.name, found.get(placement.role.name)
                if known is None or known.role.count < placement.role.count:
                    found[name] = placement
    return PlacementPlan(tuple(found.values()), _driver(config, stages, driver_has_gpu=driver_has_gpu))


def place_pretraining(config: PretrainConfig, cluster: Cluster) -> PlacementPlan:
    """Places the workers of a pretraining, see `place_run`.

    Raises:
        ConfigError: They do not fit, with the sums.
    """
    demand = Demand(config.scaling, config.device, cluster)
    stages: tuple[Stage, ...] = ("train",)
    _check_gpus(demand, stages)
    reader = Role("task that reads clips", "clips.loader stream", 1, Claim(1.0))
    roles = [_worker(demand), *([reader] if config.clips.loader == "stream" else ())]
    return PlacementPlan(tuple(_place(roles, cluster)), "it computes nothing")


def tell_placement(plan: PlacementPlan, console: Console) -> None:
    """Says where the processes of a run go; a run in one process has nothing to say."""
    if plan.roles:
        for number, line in enumerate(plan.lines()):
            console.say(f"{'' if number else 'placement':<10} {line}")


def _roles(config: RunConfig, stage: Stage, stages: Collection[Stage], demand: Demand) -> list[Role]:
    """The processes that a stage needs at the same time, those that are hardest to place first."""
    scaling, has_env = config.scaling, config.env.id != "none"
    playing: list[Role] = []
    if has_env:
        # Planner hosts play in environment actors of their own, beside those that draw the episodes.
        pools = 2 if scaling.num_planner_hosts and stage in ("train", "evaluate") else 1
        actors = Role("environment actor", "scaling.num_env_actors", pools * scaling.num_env_actors, demand.env_actor())
        if scaling.num_planner_hosts and stage in ("train", "evaluate"):
            actors = replace(actors, remark="half of them play for the planner hosts")
            claim, threads = demand.planner_host(), demand.threads_of_planner_host()
            remark = _computes(config.device, claim.gpus, f"{threads} thread{'' if threads == 1 else 's'}")
            hosts = Role("planner host", "scaling.num_planner_hosts", scaling.num_planner_hosts, claim, remark=remark)
            playing.append(hosts)
        playing.append(actors)
    if stage in ("collect", "evaluate"):
        return playing
    if stage == "encode":
        number = demand.num_encode_actors(num_shards=2**31)
        return [Role("encode actor", "scaling.num_encode_actors", number, demand.worker())]
    # One task is enough to get on; Ray Data starts as many as there is room for.
    reader = Role("task that reads windows", "data.loader stream", 1, Claim(1.0))
    reading = [reader] if config.data.loader == "stream" else []
    beside = "evaluate" in stages and config.evaluation.every_num_train_steps is not None
    return [_worker(demand), *reading, *(playing if beside else ())]


def _worker(demand: Demand) -> Role:
    """The training workers."""
    scaling, claim = demand.scaling, demand.worker()
    stated = scaling.cpus_per_worker
    threads_in_words = "their share of a node's CPUs" if stated is None else f"{stated} threads"
    return Role(
        "training worker",
        "scaling.num_workers",
        scaling.num_workers,
        claim,
        fewest=scaling.min_workers,
        spread=not claim.gpus,
        remark=_computes(demand.device, claim.gpus, threads_in_words),
    )


def _computes(device: str, gpus: float, on_cpu: str) -> str:
    """What a role with some GPUs computes on."""
    if gpus and device.startswith(("auto", "cuda")):
        return "they compute on the GPU"
    if not gpus and device == "auto":
        return f"there are no GPUs for them, so they compute on the CPU with {on_cpu}"
    return f"they compute on the CPU with {on_cpu}"


def _driver(config: RunConfig, stages: Collection[Stage], *, driver_has_gpu: bool) -> str:
    """What the driver computes itself, and where."""
    if "evaluate" not in stages:
        return "it computes nothing"
    device = "the GPU" if driver_has_gpu and config.device.startswith(("auto", "cuda")) else "the CPU"
    if config.env.id == "none" or config.scaling.num_planner_hosts:
        return f"held-out prediction, on {device}"
    return f"plans and held-out prediction, on {device} (scaling.num_planner_hosts moves plans to the cluster)"


def _check_gpus(demand: Demand, stages: Collection[Stage]) -> None:
    """Refuses GPUs that are asked for by name and that nothing of the run would get."""
    scaling, cuda = demand.scaling, demand.device.startswith("cuda")
    stated = [f"device '{demand.device}'"] if cuda else []
    stated += [f"scaling.accelerator_type '{scaling.accelerator_type}'"] if scaling.accelerator_type else []
    claims = {}
    if "train" in stages or "encode" in stages:
        claims["scaling.gpus_per_worker"] = demand.worker()
    if "evaluate" in stages and scaling.num_planner_hosts:
        claims["scaling.gpus_per_planner_host"] = demand.planner_host()
    for key, claim in claims.items():
        if stated and not claim.gpus and getattr(scaling, key.removeprefix("scaling.")) is None:
            if not demand.wants_gpus:
                raise ConfigError(
                    f"{stated[0]} chooses a kind of GPU, and device '{demand.device}' claims none; leave it out, or "
                    f"state {key} 1 to claim GPUs and compute on CPUs"
                )
            shapes = _shapes(demand.cluster.types(), demand.cluster)
            raise ConfigError(
                f"{' and '.join(stated)} asks for GPUs, and the cluster has none of that kind for {key}, nor can it "
                f"start any ({shapes}); pass --device cpu without scaling.accelerator_type, or {key} 0"
            )


def _check_driver(config: RunConfig, stages: Collection[Stage], *, driver_has_gpu: bool) -> None:
    """Refuses plans on a GPU that the driver has not, where the driver plans."""
    plans_here = "evaluate" in stages and config.env.id != "none" and not config.scaling.num_planner_hosts
    if plans_here and config.device.startswith("cuda") and not driver_has_gpu:
        raise ConfigError(
            f"device is '{config.device}', and the driver, which plans where scaling.num_planner_hosts is 0, has no "
            "GPU; pass --scaling.num-planner-hosts 1 to plan on a GPU of the cluster, or --device auto to plan on the "
            "driver's CPU"
        )


def _place(roles: Sequence[Role], cluster: Cluster) -> list[RolePlacement]:
    """Places processes that run at the same time, node by node.

    Args:
        roles: Those that are hardest to place first.
        cluster: What there is, and what can be started.

    Raises:
        ConfigError: With the sums.
    """
    nodes = _Nodes(cluster)
    placed = []
    for role in roles:
        running: Counter[str] = Counter()
        started: Counter[str] = Counter()
        used: dict[str, set[int]] = {}
        missing = 0
        for number in range(role.count):
            node = nodes.take(role)
            if node is None:
                missing = role.count - number
                break
            (started if node.is_started else running)[node.kind.name] += 1
            used.setdefault(f"{node.is_started}{node.kind.name}", set()).add(id(node))
        if role.count - missing < role.needed and cluster.startable is not None:
            raise ConfigError(_refusal(role, roles, cluster, role.count - missing))
        placed.append(
            RolePlacement(
                role,
                {name: (count, len(used[f"False{name}"])) for name, count in running.items()},
                {name: (count, len(used[f"True{name}"])) for name, count in started.items()},
                missing,
            )
        )
    return placed


@dataclass
class _Node:
    kind: NodeType
    free: dict[str, float]
    is_started: bool
    held: int = 0


@dataclass
class _Nodes:
    """Nodes that fill up; more of them are started as long as the cluster's limits allow."""

    cluster: Cluster
    nodes: list[_Node] = field(default_factory=list)

    def __post_init__(self) -> None:
        for kind in self.cluster.running:
            self.nodes += [_Node(kind, dict(kind.resources), is_started=False) for _ in range(kind.count)]
        self._left = {id(kind): kind.count for kind in self.cluster.startable or ()}

    def take(self, role: Role) -> _Node | None:
        """A node with room for one more process, which then takes the room."""
        claim = role.claim
        fitting = [node for node in self.nodes if claim.suits(node.kind) and holds(node.free, claim.resources)]
        # Nodes with GPUs are left to processes that need them, as Ray itself does.
        fitting = [node for node in fitting if not node.kind.gpus] or fitting if not claim.gpus else fitting
        node = min(fitting, key=lambda each: each.held, default=None) if role.spread else next(iter(fitting), None)
        node = node or self._start(role)
        if node is not None:
            node.held += 1
            for name, amount in claim.resources.items():
                node.free[name] = node.free.get(name, 0.0) - amount
        return node

    def _start(self, role: Role) -> _Node | None:
        started = sum(node.is_started for node in self.nodes)
        if self.cluster.most_started is not None and started >= self.cluster.most_started:
            return None
        claim = role.claim
        kinds = [
            kind
            for kind in self.cluster.startable or ()
            if self._left[id(kind)] and claim.suits(kind) and holds(kind.resources, claim.resources)
        ]
        if not kinds:
            return None
        # Nodes without GPUs for what needs none, and small ones before large ones; Ray weighs them much alike.
        kind = min(kinds, key=lambda each: (each.gpus, -each.priority, each.cpus))
        self._left[id(kind)] -= 1
        node = _Node(kind, dict(kind.resources), is_started=True)
        self.nodes.append(node)
        return node


def _refusal(role: Role, roles: Sequence[Role], cluster: Cluster, placed: int) -> str:
    """Why a role does not fit of which some processes were placed, with the sums."""
    claim = role.claim
    suitable = [kind for kind in cluster.types() if claim.suits(kind)]
    holding = [kind for kind in suitable if number_held(kind, claim.resources)]
    capacity = sum(number_held(kind, claim.resources) for kind in holding)
    if capacity == 0:
        return (
            f"{role.key}: no node of the cluster, running or startable, holds one of the {role.name}s "
            f"({claim.words()}); there are {_shapes(cluster.types(), cluster)}"
        )
    limit = "" if cluster.most_started is None else f", at most {cluster.most_started} nodes may be added"
    there = f"there are {_shapes(holding, cluster)}{limit}"
    if capacity < role.needed or role is roles[0]:
        resource = "GPU" if claim.gpus else "CPU"
        amount = claim.resources[resource]
        needed = f"{_counted(role, role.needed)} x {amount:.3g} {resource} = {role.needed * amount:.3g} {resource}s"
        remedy = f"lower {role.key}, or claim less for each"
        return f"{role.key}: {needed}; {there}; at most {min(capacity, placed)} fit; {remedy}"
    sums = " + ".join(f"{_counted(each, each.needed)} x {each.claim.cpus:.3g}" for each in roles)
    total = sum(each.needed * each.claim.cpus for each in roles)
    gpus = sum(each.needed * each.claim.gpus for each in roles)
    gpus_in_words = f" and {gpus:.3g} GPUs" if gpus else ""
    return (
        f"{role.key}: {_counted(role, role.needed)} do not fit beside the other processes that run at the same time: "
        f"{sums} = {total:.3g} CPUs{gpus_in_words}; there are {_shapes(cluster.types(), cluster)}{limit}; lower "
        f"{role.key}, or leave out evaluation.every_num_train_steps where it is set"
    )


def _shapes(types: Iterable[NodeType], cluster: Cluster) -> str:
    """`2 x gpu (8 CPUs, 1 GPU, startable)` for each type of nodes."""
    words = []
    for kind in types:
        facts = [f"{kind.cpus:.3g} CPU{'' if kind.cpus == 1 else 's'}"]
        facts += [f"{kind.gpus:.3g} GPU{'' if kind.gpus == 1 else 's'}"] if kind.gpus else []
        facts += ["startable"] if any(kind is each for each in cluster.startable or ()) else []
        words.append(f"{kind.count} x {kind.name} ({', '.join(facts)})")
    return ", ".join(words) or "no nodes"


def _counted(role: Role, count: int | None = None) -> str:
    number = role.count if count is None else count
    if count is None and role.needed != role.count:
        return f"{role.needed} to {role.count} {role.name}s"
    return f"{number} {role.name}{'' if number == 1 else 's'}"
