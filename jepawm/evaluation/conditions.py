"""What a success rate must say beside its number, so that two of them can be compared."""

from jepawm.checkpoints.model_folder import ModelSpec
from jepawm.config import ObjectiveConfig, PlannerConfig, ProtocolConfig, SubgoalConfig
from jepawm.config.compact import frozen_encoder
from jepawm.config.evaluation import NearestStartsConfig
from jepawm.config.subgoals import MacroSubgoalsConfig
from jepawm.types import ActionSpec
from jepawm.world_model import WorldModel

_SOLVED = {
    "plan_end": "when a plan has been executed, which ends the episode",
    "any_env_step": "at any env_step; the episode ends after the plan in which it held",
    "episode_end": "after the last env_step; no episode ends before",
}


def model_conditions(model: WorldModel, spec: ModelSpec) -> dict[str, str]:
    """How a model reads the world, in words.

    Args:
        model: The world model.
        spec: Its statistics and action specification.

    Returns:
        `action_scaling`, `action_bounds`, `image_normalisation` and `history`.
    """
    statistics = spec.statistics
    mean, std = ([f"{value:.4g}" for value in values] for values in (statistics.action_mean, statistics.action_std))
    # A compact latent reads features, and the encoder below it the frames.
    encoder = frozen_encoder(spec.model.encoder)
    normalization = encoder.pixel_normalization or "as the encoder's own configuration says"
    return {
        "action_scaling": f"(action - mean) / std; mean [{', '.join(mean)}], std [{', '.join(std)}]",
        "action_bounds": _bounds(spec.action),
        "image_normalisation": f"{normalization}, frames of {spec.image_size} px",
        "history": f"{model.context_window} frame(s), {model.frameskip} env_steps apart; at an episode's start 1 frame",
    }


def protocol_conditions(
    protocol: ProtocolConfig, planner: PlannerConfig, objective: ObjectiveConfig, frameskip: int
) -> dict[str, str]:
    """How plans became actions, in words.

    Args:
        protocol: When plans are made and what counts as solved.
        planner: The search.
        objective: Its cost.
        frameskip: Environment steps in a chunk.

    Returns:
        `action_gathering`, `budget`, `solved`, `planner` and `cost`.
    """
    shrinking = ", each ending where the one before it ended" if protocol.horizon == "shrinking" else ""
    if protocol.replans:
        start = "the shifted rest of the last one" if protocol.warm_start else "nothing"
        gathering = f"plans of {planner.horizon} chunks{shrinking}, {protocol.replan_every} executed of each; a replan "
        gathering += f"starts from {start}"
    else:
        gathering = f"one plan of {planner.horizon} chunks, {protocol.replan_every} executed, without looking again"
    env_steps = protocol.max_chunks * frameskip
    held = "one action held for a chunk" if planner.hold_actions else "each env_step's action searched"
    return {
        "action_gathering": gathering,
        "budget": f"{env_steps} env_steps = {protocol.max_chunks} chunks of {frameskip} actions",
        "solved": _SOLVED[protocol.success_at],
        "planner": f"{_search(planner)}, {held}",
        "cost": f"{objective.distance}, {objective.weighting}, proprio weight {objective.proprio_weight:g}",
    }


def subgoal_conditions(subgoals: SubgoalConfig) -> dict[str, str]:
    """What plans aim at, in words: `subgoals`; empty where they aim at the goal itself."""
    if subgoals.name == "none":
        return {}
    if not isinstance(subgoals, MacroSubgoalsConfig):
        return {"subgoals": subgoals.name}
    search = subgoals.planner
    told = f"head {subgoals.head}, {search.horizon} macro-actions ({subgoals.horizon}), cost {subgoals.weighting}"
    return {"subgoals": f"{told}; {_search(search)}"}


def start_conditions(starts: NearestStartsConfig) -> dict[str, str]:
    """Which recorded actions searches start from, in words: `starts`; empty where they start from none."""
    if not starts.num_starts:
        return {}
    told = f"the cheapest of {starts.num_starts} recorded sequences near the present and the goal"
    return {"starts": f"{told}, from {starts.num_episodes} training episodes at most"}


def _search(planner: PlannerConfig) -> str:
    counts = ("num_samples", "num_elites", "num_iterations", "num_iterations_warm")
    told = [f"{getattr(planner, name)} {name.removeprefix('num_')}" for name in counts if hasattr(planner, name)]
    return ", ".join([planner.name, *told, f"first std {planner.init_std:g}"])


def _bounds(action: ActionSpec) -> str:
    box = ", ".join(f"{low:.4g} to {high:.4g}" for low, high in zip(action.low, action.high, strict=True))
    norm = "" if action.max_norm is None else f", norm at most {action.max_norm:.4g}"
    return f"{box}{norm}" + (f" [{action.units}]" if action.units else "")
