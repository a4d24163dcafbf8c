"""What a run prints when it ends."""

import shlex

from jepawm.config.places import local_path
from jepawm.console import Console
from jepawm.evaluation.image_outcomes import ImageGoals
from jepawm.evaluation.metrics import SuccessRate
from jepawm.evaluation.result import EvaluationResult, Played, PredictionRow


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
    if result.image_goals is not None:
        _print_image_goals(result.image_goals, console)
    if result.held_out.prediction:
        first, last = result.held_out.prediction[0], result.held_out.prediction[-1]
        console.say(
            f"prediction  error as a share of persistence: {_share(first)} after 1 model step, "
            f"{_share(last)} after {last.model_steps}"
        )
    if result.played is not None:
        rate = result.played.protocols[result.played.headline].planned.rate
        counted = result.config["evaluation"].get("solved_at_start") == "count"
        fate = "of them solved at the start" if counted else "others were solved at the start and not counted"
        console.say(f"{rate.num_episodes} episodes ({result.played.solved_at_start} {fate})")
        _print_conditions(result, console)
    wall_times = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in result.wall_s.items())
    console.say(f"wall time   {wall_times}{f' (sums of {num_parts} parts)' if num_parts > 1 else ''}")
    console.say(f"report      {local_path(result.report)}")
    if result.mlflow_uri:
        is_server = result.mlflow_uri.startswith("http")
        command = shlex.join(["mlflow", "ui", "--backend-store-uri", result.mlflow_uri])
        console.say(f"MLflow      {result.mlflow_uri if is_server else command}")


def _share(row: PredictionRow) -> str:
    share = row.share_of_persistence
    return "none (no held-out latent changed)" if share is None else f"{share:.3f}"


def _print_played(played: Played, console: Console) -> None:
    console.say(f"{'protocol':<12} {'success rate [95 % interval]':<30} {'random plans':<24} plan ms per batch (p50)")
    for name, protocol in played.protocols.items():
        planned = protocol.planned
        console.say(
            f"{name:<12} {_rate(planned.rate):<30} {_rate(protocol.random.rate):<24} "
            f"{planned.plan_ms_p50:.0f} for {planned.mean_plan_batch:.0f} episodes"
        )
    for point in played.distance_curve:
        console.say(
            f"{f'{point.goal_offset_env_steps} env_steps':<12} {_rate(point.report.planned.rate):<30} "
            f"{_rate(point.report.random.rate):<24} goals so far away, {point.report.rules.max_chunks} chunks at most"
        )
    reports = {
        **played.protocols,
        **{f"{point.goal_offset_env_steps} env_steps": point.report for point in played.distance_curve},
    }
    for name, report in reports.items():
        for head, baseline in report.baselines.items():
            console.say(f"{name:<12} {_rate(baseline.rate):<30} by the head {head} alone, without search")
    for name, report in reports.items():
        for text in report.verdicts():
            console.say(f"{name:<12} {text}")
    for name, protocol in played.protocols.items():
        if protocol.planned.mean_distance is not None:
            console.say(
                f"{name:<12} ends {protocol.planned.mean_distance:.3g} from the goal on average, random plans "
                f"{protocol.random.mean_distance:.3g} ({played.distance_name})"
            )

    failures = played.protocols[played.headline].failures
    if failures is not None:
        causes = ", ".join(f"{cause} {count}" for cause, count in failures.counts.items() if count)
        console.say(
            f"failures     {causes} (first plans of {len(failures.episodes)} of {failures.num_failed} failed episodes)"
        )


def _print_image_goals(found: ImageGoals, console: Console) -> None:
    at_start, at_end, random = found.means
    console.say(
        f"pictures     {len(found.episodes)} episodes, {found.protocol}; mean latent distance {at_start:.4g} at the "
        f"start, {at_end:.4g} at the end, {random:.4g} at the end of random plans"
    )
    if found.rate is None or found.random_rate is None:
        console.say("             success is not judged: no simulator state of the goals is known")
    else:
        console.say(f"             solved at the end {_rate(found.rate)}, random plans {_rate(found.random_rate)}")


def _print_conditions(result: EvaluationResult, console: Console) -> None:
    """What a rate must say beside its number, for the headline."""
    assert result.played is not None, "something was played"
    headline = result.played.protocols[result.played.headline]
    for name, text in {**(headline.conditions or {}), **result.conditions}.items():
        console.say(f"   {name.replace('_', ' '):<20} {text}")
    if result.published is not None:
        told = result.published
        console.say(f"   {'published':<20} {told['name']}: {told['paper']}")
        for text in (*told["differences"], *told["remarks"]):
            console.say(f"   {'':<20} differs: {text}")


def _rate(rate: SuccessRate) -> str:
    low, high = rate.success_interval
    return f"{rate.success_rate:.3f} [{low:.3f}, {high:.3f}]"
