"""A few dozen random corruptions; `corruption.py --count N` runs more."""

import os

import pytest
from corruption import prepare, trial
from every_format import SOURCES

EACH = int(os.environ.get("JEPAWM_CORRUPTIONS", "3"))
# Seeds at which a longer run of `corruption.py` found a fault.
FOUND = {"lerobot": (50012,), "robocasa-hdf5": (68001,), "pusht-zarr": (70013,)}


@pytest.mark.parametrize("form", list(SOURCES))
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_a_corruption_is_refused_or_changes_nothing(form, tmp_path):
    for package in SOURCES[form].packages:
        pytest.importorskip(package)
    sound = prepare(form, tmp_path / "sound")
    for seed in (*range(EACH), *FOUND.get(form, ())):
        (tmp_path / str(seed)).mkdir()
        done, outcome, wrong = trial(form, seed, sound, tmp_path / str(seed))
        assert outcome in ("same", "refused"), f"{done}: {outcome}: {wrong}"
        assert not wrong, f"{done}: {outcome}: {wrong}"
