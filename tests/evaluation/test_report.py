"""What is told about an evaluation: results as JSON, the report, and the terminal."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from synthetic_results import DATASET, synthetic_result

from jepawm.config import (
    RunConfig,
)
from jepawm.console import Console
from jepawm.evaluation.goal_outline import with_goal_outline
from jepawm.evaluation.manifest import manifest
from jepawm.evaluation.other_runs import OtherRun, OtherRuns
from jepawm.evaluation.play import Animation
from jepawm.evaluation.report import write_report
from jepawm.evaluation.result import (
    EvaluationResult,
    HeldOut,
    PredictionRow,
)
from jepawm.runs.summary import print_result
from jepawm.runs.tracking import summary_metrics


def test_a_manifest_says_where_a_number_comes_from() -> None:
    told = manifest(extra=3)
    assert told["extra"] == 3
    assert {"python", "torch", "numpy", "gymnasium"} <= set(told["versions"])
    assert told["hardware"]["cpu_cores"] >= 1
    assert re.match(r"\d{4}-\d\d-\d\dT", told["created"])


def test_results_survive_json() -> None:
    result = synthetic_result()
    assert EvaluationResult.from_dict(json.loads(json.dumps(result.to_dict()))) == result
    alone = dataclasses.replace(result, played=None, held_out=HeldOut())
    assert EvaluationResult.from_dict(json.loads(json.dumps(alone.to_dict()))) == alone


def test_files_of_earlier_versions_are_read() -> None:
    data = json.loads(json.dumps(synthetic_result().to_dict()))
    for key in ("conditions", "published", "distance_curve", "episodes_file"):
        del data[key]
    for protocol in data["protocols"].values():
        del protocol["failures"], protocol["conditions"]
        for key in ("horizon", "warm_start"):
            del protocol["protocol"][key]
        for episode in [*protocol["episodes"], *protocol["random"]["episodes"]]:
            for key in ("solved_ever", "solved_at_end", "env_steps_to_success", "latent_distance"):
                del episode[key]
    found = EvaluationResult.from_dict(data)
    assert found.played is not None
    assert found.played.distance_curve == ()
    assert found.protocols["two_plan"].failures is None
    assert found.protocols["two_plan"].rules == RunConfig().evaluation.two_plan
    assert found.protocols["two_plan"].planned.rate == synthetic_result().protocols["two_plan"].planned.rate


def synthetic_metrics() -> list[dict[str, Any]]:
    return [
        {
            "train_step": step,
            "train/loss": 3.0 / step,
            "train/prediction": 1.0 / step,
            "train/windows_per_s": 1000.0,
            "train/data_wait_fraction": 0.01,
            "train/seconds": 0.1 * step,
            "diagnostics/effective_rank": 10.0,
            "diagnostics/latent_std_mean": 0.9,
            "diagnostics/latent_std_min": 0.5,
        }
        for step in (50, 100)
    ]


def test_the_report_is_one_file_with_numbers_and_animations(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    frames = np.random.default_rng(0).integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8)
    costs = [np.array([3.0, 2.0, 1.0]), np.array([2.0, 1.5])]
    animations = {number: Animation(frames, frames[0], costs, distances=np.linspace(9, 1, 6)) for number in (3, 4)}
    write_report(str(path), synthetic_result(), synthetic_metrics(), animations)
    page = path.read_text("utf-8")
    sources = re.findall(r"""(?:src|href)\s*=\s*["']?([^"'>\s]+)""", page)
    assert sources
    assert all(source.startswith(("data:", "#")) for source in sources)
    assert not re.search(r"@import|url\((?!#)|<link|<script", page)
    assert page.count("data:image/webp;base64,") == 6
    # Success, goal distance, distance and cost of two episodes, training, latents, prediction.
    assert page.count("<svg") >= 7
    assert page.count("one line a plan") == 2
    # The failure comes first, and the protocol stands above both.
    rollouts = page.index("<h2>Rollouts")
    places = [page.index(text, rollouts) for text in ("two_plan: replan every", "episode 4:", "episode 3:")]
    assert places == sorted(places)
    for words in ("the model imagined what did not happen", "1 of 8 failed episodes", "As published: dino_wm_wall"):
        assert words in page, words
    assert "a &lt;remark&gt;" in page
    for words in ("84.0 %", "71.4", "91.7", "6.0 %", "50 episodes", "312,345 parameters", "7 further tasks", "17.25"):
        assert words in page, words
    assert page.count("not solved") == 1
    assert "demo &lt;&amp;&gt; more" in page
    assert "probe_r2/&lt;x&gt;" in page
    assert "<&>" not in page
    assert "--recipe RUN/config.yaml" in page


def test_the_report_links_to_other_runs_of_the_experiment(tmp_path: Path) -> None:
    runs = [
        OtherRun("a <b> #1", "demo", "Wall", "two_plan 0.5", str(tmp_path.parent / "a <b> #1" / "report.html")),
        OtherRun("no report yet", "demo", "Wall", "3/10 train steps", None),
    ]
    path = tmp_path / "report.html"
    alone = dataclasses.replace(synthetic_result(), played=None, dataset=DATASET, held_out=HeldOut())
    write_report(str(path), alone, [], {}, OtherRuns("study", runs, 4, ["broken"]))
    page = path.read_text("utf-8")
    (link,) = re.findall(r'<a href="([^"]+)">a &lt;b&gt; #1</a>', page)
    assert unquote(link) == "../a <b> #1/report.html"
    assert not re.search(r"[<>#]", link)
    for words in ("<td>no report yet</td>", "4 older runs are left out", "cannot be read: broken", "study"):
        assert words in page, words
    write_report(str(path), alone, [], {}, OtherRuns("study", []))
    assert "Other runs" not in path.read_text("utf-8")


def test_the_goal_is_outlined_where_it_differs_from_the_start() -> None:
    start, goal = np.zeros((2, 12, 12, 3), np.uint8)
    for picture in (start, goal):
        picture[:, 0] = 255
    start[4:6, 3:5], goal[6:9, 7:10] = 200, 200
    frames = np.stack([start, np.full_like(start, 50)])
    outlined = with_goal_outline(frames, goal)
    expected = np.zeros((12, 12), bool)
    # A pixel is an edge where its right or lower neighbour differs: the square's own rim, and what lies before it.
    expected[5, 7:10], expected[6:9, 6], expected[8, 7:10], expected[6:9, 9] = True, True, True, True
    np.testing.assert_array_equal((outlined != frames).any(axis=-1), [expected, expected])
    np.testing.assert_array_equal(with_goal_outline(frames, start), frames)
    assert frames.max(axis=(1, 2, 3)).tolist() == [255, 50]


def test_predictions_where_nothing_changes_have_no_share_of_persistence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = PredictionRow(1, model=0.2, persistence=0.0, shuffled_actions=0.3, variance=0.0)
    assert still.share_of_persistence is None
    result = dataclasses.replace(synthetic_result(), played=None, dataset=DATASET, held_out=HeldOut((still,), 8, 2))
    write_report(str(tmp_path / "report.html"), result, [], {})
    assert "none: no latent changed" in (tmp_path / "report.html").read_text("utf-8")
    assert "eval/prediction/1" not in summary_metrics(result)
    print_result(result, Console())
    assert "share of persistence: none (no held-out latent changed) after 1 model step" in capsys.readouterr().out


def test_an_animation_holds_every_frame(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    path = tmp_path / "report.html"
    frames = np.random.default_rng(0).integers(0, 256, size=(6, 16, 16, 3), dtype=np.uint8)
    write_report(
        str(path),
        synthetic_result(),
        synthetic_metrics(),
        {3: Animation(frames, frames[0], [])},
    )
    found = re.search(r"alt='rollout' src='data:image/webp;base64,([^']+)'", path.read_text("utf-8"))
    assert found
    image = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert image.n_frames == 6
    for number in range(6):
        image.seek(number)
        shown = np.asarray(image.convert("RGB"))
        # Enlarged eight times, above a strip whose bar says how far the episode is.
        np.testing.assert_array_equal(shown[:128:8, ::8], frames[number])
        bar = (shown[129] != 255).any(axis=1)
        assert bar.sum() == round((number + 1) / 6 * 127) + 1


def test_a_report_of_a_run_without_extras_is_written_too(tmp_path: Path) -> None:
    whole = synthetic_result()
    assert whole.played is not None
    one = dataclasses.replace(whole.played, protocols={"two_plan": whole.protocols["two_plan"]})
    result = dataclasses.replace(whole, played=one, held_out=HeldOut())
    write_report(str(tmp_path / "report.html"), result, [], {})
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "No episodes were held out" in page
    assert "None were recorded" in page
    assert "No training metrics" in page
