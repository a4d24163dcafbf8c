"""`jepawm study encoders`: encoders x environments x shares of the episodes x seeds, compared on one page.

jepawm study encoders --study docs/studies/encoders.yaml --local
jepawm study encoders --study FILE.yaml --encoders.vjepa.weights RUN/encoder --seeds "[0, 1]"
jepawm study encoders --study FILE.yaml --report-only
"""

from collections.abc import Sequence
from typing import Any

import yaml

from jepawm.config.command_line import take_switch, take_value
from jepawm.errors import ConfigError

USAGE = """usage: jepawm study encoders --study FILE.yaml [flags]

Trains and judges a world model for each encoder, environment, share of the training episodes and seed of a study, and
writes one report (study.json, report.html, report.md). The same command goes on where it was stopped; an encoder, share
or seed that was added to the file runs its own trials alone.

--study FILE.yaml: the study (needed); docs/studies/README.md says how to write one.
--study-dir DIR: its folder; without it, study-NAME under $JEPAWM_HOME.
--local: one trial after the other in this process, without Ray.
--list: say which trials there are, and run nothing.
--report-only: write the reports of what was found so far, and run nothing.
--retry-failed: run trials again that failed before.

Any other flag is a dotted key of the file with a YAML value, e.g. --encoders.vjepa.weights RUN/encoder or
--trials.max_concurrent 2."""


def main(argv: Sequence[str]) -> int:
    """Reads the command line and runs the study."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] != "encoders":
        raise ConfigError(f"jepawm study: unknown '{words[0]}'; there is: jepawm study encoders --study FILE.yaml")
    switches: dict[str, bool] = {}
    words = words[1:]
    if "--help" in words or "-h" in words:
        print(USAGE)
        return 0
    for flag in ("--local", "--list", "--report-only", "--retry-failed"):
        switches[flag], words = take_switch(words, flag)
    file, words = take_value(words, "--study", "a YAML file")
    folder, words = take_value(words, "--study-dir", "a folder")
    if file is None:
        raise ConfigError("pass --study FILE.yaml, e.g. docs/studies/encoders.yaml of the repository")
    from jepawm.console import Console
    from jepawm.runs.study import StudyRequest, list_trials, run_study

    request = StudyRequest(
        file,
        changes_of(words),
        folder=folder,
        local=switches["--local"],
        report_only=switches["--report-only"],
        retry_failed=switches["--retry-failed"],
        words=tuple(argv),
    )
    if switches["--list"]:
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
