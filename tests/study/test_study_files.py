"""The studies in docs/studies are read and planned, without any weights."""

import re
from pathlib import Path

import pytest
import yaml

from jepawm.config.study import read_study, study_from_dict
from jepawm.runs.study_plan import planned_trials
from jepawm.study.records import StudyFolder

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "studies"
# Encoders whose weights are given on the command line.
GIVEN = {
    "encoders.yaml": [
        "dinov2",
        "dinov2_layer6",
        *(f"vjepa_{arm}" for arm in ("multiblock", "tubes", "motion", "learned", "progressive")),
    ]
}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.name)
def test_every_study_of_the_documentation_plans_its_trials(path: Path, tmp_path: Path) -> None:
    # Settings do not differ by seed or share, so one of each is enough.
    changes = {f"encoders.{label}.weights": f"{label}.pt" for label in GIVEN.get(path.name, ())}
    study = read_study(str(path), {**changes, "seeds": [0], "fractions": [1.0]})
    assert not study.left_out
    trials = planned_trials(study, StudyFolder(tmp_path))
    wanted = {(environment, label) for label in study.encoders for environment in study.environments}
    assert {(cell.environment, cell.encoder) for trial in trials for cell in trial.cells} == wanted
    assert len({trial.identity for trial in trials}) == len(trials) == len(wanted)
    assert not list(tmp_path.iterdir())


def test_a_study_says_which_weights_it_waits_for() -> None:
    assert list(read_study(str(FOLDER / "encoders.yaml")).left_out) == GIVEN["encoders.yaml"]


def test_the_study_of_the_page_is_one(tmp_path: Path) -> None:
    block = re.search(r"```yml\n(.*?)```", (FOLDER / "README.md").read_text("utf-8"), re.DOTALL)
    assert block is not None
    study = study_from_dict(yaml.safe_load(block[1]), "docs/studies/README.md")
    assert study.left_out == ("vjepa",)
    assert len(planned_trials(study, StudyFolder(tmp_path))) == 1 * 1 * 3 * 3
