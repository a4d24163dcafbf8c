"""What a run prints when it ends."""

import shlex

from jepawm.console import Console
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.result import EvaluationResult, Played


def print_result(result: EvaluationResult, console: Console, *, num_parts: int = 1) -> None:
    """Prints an evaluation as a table, and where its report is.

    Args:
        result: The evaluation.
        console: Where it is printed.
        num_parts: Processes whose wall times are summed; more than one where a run was continued.
    """
    console.say()
    if result.played is not None:
        _print_played(result.played, console)
    if result.held_out.prediction:
        first, last = result.held_out.prediction[0], result.held_out.prediction[-1]
        console.say(
            f"prediction  error as a share of persistence: {first.share_of_persistence:.3f} after 1 model step, "
            f"{last.share_of_persistence:.3f} after {last.model_steps}"
        )
    if result.played is not None:
        rate = result.played.protocols[result.played.headline].planned.rate
        console.say(
            f"{rate.num_episodes} episodes ({result.played.solved_at_start} others were solved at the start and not "
            "counted)"
        )
    wall_times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.wall_s.items())
    console.say(f"wall time   {wall_times}{f' (sums of {num_parts} parts)' if num_parts > 1 else ''}")
    console.say(f"report      {result.report}")
    if result.mlflow_uri:
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", result.mlflow_uri])
        console.say(f"MLflow      {command}")


def _print_played(played: Played, console: Console) -> None:
    console.say(f"{'protocol':<12} {'success rate [95 % interval]':<30} {'random plans':<24} plan ms per batch (p50)")
    for name, protocol in played.protocols.items():
        planned = protocol.planned
        console.say(
            f"{name:<12} {_rate(planned.rate):<30} {_rate(protocol.random.rate):<24} "
            f"{planned.plan_ms_p50:.0f} for {planned.mean_plan_batch:.0f} episodes"
        )
    for name, protocol in played.protocols.items():
        for head, baseline in protocol.baselines.items():
            console.say(f"{name:<12} {_rate(baseline.rate):<30} by the head {head} alone, without search")
    for name, protocol in played.protocols.items():
        if protocol.planned.mean_distance is not None:
            console.say(
                f"{name:<12} ends {protocol.planned.mean_distance:.3g} from the goal on average, random plans "
                f"{protocol.random.mean_distance:.3g} ({played.distance_name})"
            )


def _rate(rate: SuccessRate) -> str:
    low, high = rate.success_interval
    return f"{rate.success_rate:.3f} [{low:.3f}, {high:.3f}]"
