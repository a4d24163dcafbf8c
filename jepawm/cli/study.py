"""`jepawm study encoders`: encoders x environments x shares of the episodes x seeds, compared on one page.

jepawm study encoders --study docs/studies/encoders.yaml --local
jepawm study encoders --study FILE.yaml --encoders.vjepa.weights RUN/encoder --seeds "[0, 1]"
jepawm study encoders --study FILE.yaml --report-only
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import tyro
import yaml
from tyro.conf import Positional

from jepawm.errors import ConfigError

ABOUT = (
    "Train and judge a world model for each encoder, environment, share of the training episodes and seed of a study, "
    "and write one report (study.json, report.html, report.md). The same command goes on where it was stopped; an "
    "encoder, share or seed that was added to the file runs its own trials alone.\n\nAny other flag is a dotted key of "
    "the file with a YAML value, e.g. --encoders.vjepa.weights RUN/encoder or --trials.max_concurrent 2."
)


@dataclass(frozen=True)
class StudyCommand:
    """What a study is asked for."""

    what: Positional[Literal["encoders"]]
    """What is compared."""
    study: str
    """The study, a YAML file; docs/studies/README.md says how to write one."""
    study_dir: str | None = None
    """Its folder; None: study-NAME under $JEPAWM_HOME."""
    local: bool = False
    """Run one trial after the other in this process, without Ray."""
    list: bool = False
    """Say which trials there are, and run nothing."""
    report_only: bool = False
    """Write the reports of what was found so far, and run nothing."""
    retry_failed: bool = False
    """Run trials again that failed before."""


def main(argv: Sequence[str]) -> int:
    """Reads the command line and runs the study."""
    words = list(argv) or ["--help"]
    command, rest = tyro.cli(StudyCommand, args=words, prog="jepawm study", description=ABOUT, return_unknown_args=True)
    changes = changes_of(rest)
    from jepawm.console import Console
    from jepawm.runs.study import StudyRequest, list_trials, run_study

    request = StudyRequest(
        command.study,
        changes,
        folder=command.study_dir,
        local=command.local,
        report_only=command.report_only,
        retry_failed=command.retry_failed,
        words=tuple(argv),
    )
    if command.list:
        list_trials(request, Console())
    else:
        run_study(request, Console())
    return 0


def changes_of(words: Sequence[str]) -> dict[str, Any]:
    """Flags that are dotted keys of a study, with YAML values.

    Raises:
        ConfigError: A word that belongs to no flag, or a flag without a value.
    """
    changes: dict[str, Any] = {}
    left = list(words)
    while left:
        word = left.pop(0)
        if not word.startswith("--"):
            raise ConfigError(f"jepawm study: '{word}' belongs to no flag")
        key, equals, text = word.removeprefix("--").partition("=")
        if not equals:
            if not left:
                raise ConfigError(f"--{key} needs a value")
            text = left.pop(0)
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(f"--{key}: '{text}' is not YAML: {error}") from error
        # Dashes of a label stay; a key of the file is written with underscores.
        parts = key.split(".")
        changes[".".join([*parts[:-1], parts[-1].replace("-", "_")])] = value
    return changes
