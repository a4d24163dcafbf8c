"""Evaluations found by the names people give them."""

import json
import re
from pathlib import Path

import pytest

from jepawm.config import RunConfig, to_dict
from jepawm.errors import ConfigError
from jepawm.evaluation.compare import compare
from jepawm.evaluation.metrics import success_rate
from jepawm.evaluation.outcomes import EpisodeOutcome, ProtocolReport, ProtocolResult
from jepawm.evaluation.result import EvaluationResult, ModelFacts, Played, Provenance
from jepawm.runs.comparison import load_results, print_comparison


def write(folder: Path, solved: list[bool]) -> Path:
    config = RunConfig()
    episodes = tuple(
        EpisodeOutcome(number, each, env_steps=30, num_plans=1, start=[0.0], goal=[1.0], end=[1.0])
        for number, each in enumerate(solved)
    )
    played = ProtocolResult(success_rate(solved), episodes, 10.0, 20.0, 5.0, 1.0, decision_ms_p50=2.5)
    report = ProtocolReport(config.evaluation.two_plan, played, played)
    result = EvaluationResult(
        seed=99,
        model=ModelFacts("model", "ab", 1),
        config=to_dict(config),
        provenance=Provenance("now", None, {}, {}),
        played=Played({"two_plan": report}, 0, "sampler", "", "t"),
    )
    folder.mkdir(parents=True)
    (folder / "eval.json").write_text(json.dumps(result.to_dict()))
    return folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    write(tmp_path / "wall-1", [True, True, False])
    write(tmp_path / "evaluations" / "today", [True, False, False])
    write(tmp_path / "elsewhere" / "wall-1", [False, False, False])
    return tmp_path


def test_runs_evaluations_and_files_are_found(home: Path) -> None:
    found = load_results(["wall-1", "today", str(home / "elsewhere" / "wall-1" / "eval.json")])
    rates = [result.protocols["two_plan"].planned.rate.success_rate for result in found.values()]
    assert rates == pytest.approx([2 / 3, 1 / 3, 0])
    # As much of a path as tells it apart.
    assert list(found) == [f"{home.name}/wall-1", "evaluations/today", "elsewhere/wall-1"]
    assert list(load_results(["wall-1", "today"])) == ["wall-1", "today"]


def test_what_is_no_evaluation_is_refused(home: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no evaluation 'wall-2': pass a run's name"):
        load_results(["wall-1", "wall-2"])
    with pytest.raises(ConfigError, match=r"today is given twice"):
        load_results(["evaluations/today", "today"] if Path("evaluations").exists() else ["today", "today"])
    (home / "other.json").write_text('{"success_rate": 1.0}')
    with pytest.raises(ConfigError, match=r"other.json holds no evaluation \(KeyError: 'protocols'\)"):
        load_results([str(home / "other.json"), "today"])


def test_the_terminal_shows_rates_pairs_and_what_follows(home: Path) -> None:
    lines: list[str] = []
    print_comparison(compare(load_results(["wall-1", "today"])), lines.append)
    text = "\n".join(lines)
    assert re.search(r"wall-1 +0.667 \[0.208, 0.939\] \(n=3\)", text)
    assert "both wall-1 and today solve 1, wall-1 alone 1, today alone 0, neither 1" in text
    assert "no difference is shown: wall-1 is ahead by 0.333 (p = 1)" in text
