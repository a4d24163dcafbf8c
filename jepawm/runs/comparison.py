"""Evaluations by the names people give them, and a comparison on the terminal."""

import json
import os
from collections.abc import Callable, Sequence

from jepawm.config import home
from jepawm.config.places import evaluations_dir, local_path
from jepawm.errors import ConfigError
from jepawm.evaluation.compare import Comparison, ProtocolComparison
from jepawm.evaluation.result import EvaluationResult
from jepawm.storage.holding import where
from jepawm.storage.reading import fetched, overview


def load_results(sources: Sequence[str]) -> dict[str, EvaluationResult]:
    """Evaluations by name.

    Args:
        sources: Each a run's name, the folder of a run or an evaluation, or an `eval.json`.

    Returns:
        The results, under the shortest ends of their paths that tell them apart.

    Raises:
        ConfigError: No such evaluation, a file that holds none, or one that is given twice.
    """
    files = [_find(source) for source in sources]
    for at, file in enumerate(files):
        if file in files[:at]:
            raise ConfigError(f"{sources[at]} is given twice: {file}")
    return {name: _read(file) for name, file in zip(short_names(files), files, strict=True)}


def print_comparison(comparison: Comparison, say: Callable[[str], None]) -> None:
    """Prints a table for each protocol, and what follows from it.

    Args:
        comparison: What is printed.
        say: Prints a line.
    """
    for text in comparison.warnings:
        say(f"beware: {text}")
    for protocol in comparison.protocols:
        say("")
        _print_protocol(protocol, say)
    for each in comparison.distances:
        say("")
        _print_protocol(each.played, say)
    if comparison.settings:
        say("")
        say("settings that differ")
        width = max(map(len, comparison.settings))
        for key, values in comparison.settings.items():
            say(f"  {key:<{width}}  {' | '.join(str(value) for value in values)}")


def _print_protocol(protocol: ProtocolComparison, say: Callable[[str], None]) -> None:
    first = next(iter(protocol.rates))
    width = 2 + max(len(name) for name in (*protocol.rates, protocol.protocol))
    header = f"{'success rate [95 % interval]':<34}{'random plans':<34}ms per decision (p50)"
    say(f"{protocol.protocol:<{width + 2}}{header}".rstrip())
    for name, rate in protocol.rates.items():
        speed = protocol.decision_ms_p50[name]
        told = "" if speed is None else f"{speed:.3g}"
        say(f"  {name:<{width}}{rate!s:<34}{protocol.random_rates[name]!s:<34}{told}".rstrip())
        for head, baseline in protocol.baseline_rates[name].items():
            say(f"  {'':<{width}}{baseline!s:<34}by its head {head} alone, without search")
    for each in protocol.differences:
        if each.paired is not None:
            counts = (each.paired.both, each.paired.only_first, each.paired.only_second, each.paired.neither)
            say(
                "  the same episodes: both {} solve {}, {} alone {}, {} alone {}, neither {}".format(
                    f"{first} and {each.name}", counts[0], first, counts[1], each.name, counts[2], counts[3]
                )
            )
    for text in protocol.verdicts():
        say(f"  {text}")


def _find(source: str) -> str:
    for folder in (local_path(source), os.path.join(home(), source), os.path.join(evaluations_dir(), source)):
        fetched(folder, overview)
        for path in (folder, os.path.join(folder, "eval.json")):
            if os.path.isfile(path):
                return os.path.abspath(path)
    raise ConfigError(
        f"there is no evaluation '{source}': pass a run's name, the folder of a run or of an evaluation, or an "
        f"eval.json (looked here, in {where(home())} and in {where(evaluations_dir())})"
    )


def _read(path: str) -> EvaluationResult:
    try:
        with open(path, encoding="utf-8") as file:
            return EvaluationResult.from_dict(json.load(file))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} holds no evaluation ({type(error).__name__}: {error}); pass an eval.json") from error


def short_names(paths: Sequence[str]) -> list[str]:
    """The last folders of each path, as few as tell the paths apart; a file `eval.json` is called as its folder."""
    parts = [path.removesuffix(f"{os.sep}eval.json").split(os.sep) for path in paths]
    for depth in range(1, max(map(len, parts)) + 1):
        names = [os.sep.join(each[-depth:]) for each in parts]
        if len(set(names)) == len(names):
            return names
    return list(paths)
