"""Checks whether an environment is fit for collecting and planning. A finding says what to change."""

from jepawm.config import EnvConfig
from jepawm.env_check.basics import BASICS
from jepawm.env_check.behaviour import BEHAVIOUR
from jepawm.env_check.goals import GOALS
from jepawm.env_check.speed import SPEED
from jepawm.env_check.trial import Check, Finding, Trial
from jepawm.errors import JepawmError
from jepawm.rollout.faults import describe_error

__all__ = ["Finding", "check_env"]


def check_env(config: EnvConfig) -> tuple[list[Finding], Trial | None]:
    """Runs every check.

    Args:
        config: The environment, its options and the size of its pictures.

    Returns:
        Findings in order, and the environment under test, which the caller closes; None if it could not be made.
    """
    try:
        trial = Trial(config)
    except JepawmError as error:
        return [Finding("FAIL", "made", str(error))], None
    except Exception as error:  # noqa: BLE001 - any error of the environment is a finding
        return [Finding("FAIL", "made", _raised(error))], None
    what = f"{type(trial.bare).__name__}, through the adapter" if trial.is_adapted else type(trial.bare).__name__
    findings = [Finding("ok", "made", f"{config.id} ({what})")]
    for name, check in BASICS.items():
        findings += _run(name, check, trial)
    if any(finding.level == "FAIL" for finding in findings):
        return [*findings, Finding("note", "stopped", "the other checks build on these; mend them first")], trial
    for name, check in {**BEHAVIOUR, **GOALS, **SPEED}.items():
        findings += _run(name, check, trial)
    return findings, trial


def _run(name: str, check: Check, trial: Trial) -> list[Finding]:
    try:
        return [Finding(level, name, text) for level, text in check(trial)]
    except Exception as error:  # noqa: BLE001 - see check_env
        return [Finding("FAIL", name, _raised(error))]


def _raised(error: Exception) -> str:
    return f"raised {describe_error(error)}"
