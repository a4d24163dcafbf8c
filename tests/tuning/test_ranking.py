"""Which trial is best, which ones no other beats, and which settings mattered."""

import numpy as np
import pytest

from jepawm.tuning import Choice, LogUniform, Space
from jepawm.tuning.ranking import importances, ranked, seconds_of, unbeaten
from jepawm.tuning.trial import TrialRecord

SPACE = Space("two", {"optim.learning_rate": LogUniform(1e-4, 1e-2), "train.batch_size": Choice(8, 16)})
BOTH = (("success_rate", "max"), ("decision_ms", "min"))


def record(number, rate, ms=1.0, status="finished", point=None) -> TrialRecord:
    metrics = {"success_rate": rate, "decision_ms": ms} if status == "finished" else {}
    return TrialRecord(number, point or {}, status, "", metrics=metrics, seconds=2.0)


def test_the_best_comes_first_and_what_did_not_finish_not_at_all():
    records = [
        record(0, 0.2),
        record(1, 0.9),
        record(2, 0.9),
        record(3, float("nan")),
        record(4, 1.0, status="stopped"),
    ]
    assert [each.number for each in ranked(records, (("success_rate", "max"),))] == [1, 2, 0]
    assert [each.number for each in ranked(records, (("success_rate", "min"),))] == [0, 1, 2]
    # Equal in the first metric: the faster one comes first.
    slow, fast = record(0, 0.9, 10.0), record(1, 0.9, 1.0)
    assert [each.number for each in ranked([slow, fast], BOTH)] == [1, 0]
    assert seconds_of(records) == {"finished": 8.0, "stopped": 2.0}


def test_no_trial_beats_those_of_the_front_in_both_metrics():
    records = [
        record(0, 0.9, 10.0),
        record(1, 0.8, 1.0),
        record(2, 0.8, 2.0),
        record(3, 0.5, 1.0),
        record(4, 0.9, 10.0),
    ]
    assert {each.number for each in unbeaten(records, BOTH)} == {0, 1, 4}


def test_a_setting_that_decides_the_outcome_matters_and_noise_does_not():
    """27 trials whose metric is the learning rate's rank: it explains nearly everything, the batch size nothing."""
    rates = np.geomspace(1e-4, 0.0099, 27)
    records = [
        record(
            number, float(number), point={"optim.learning_rate": float(rate), "train.batch_size": (8, 16)[number % 2]}
        )
        for number, rate in enumerate(rates)
    ]
    first, second = importances(records, SPACE, BOTH)
    assert first.key == "optim.learning_rate"
    # Three groups of nine of 27 ranks without overlap: H = 12 / (27 * 28) * 3 * (2 * 9 * 81) / 3 = 23.14, and
    # (H - 2) / 24 = 0.881.
    assert first.share == pytest.approx((12 / (27 * 28) * 9 * (5**2 + 14**2 + 23**2) - 3 * 28 - 2) / 24)
    assert first.p_value < 1e-4
    assert [count for _, _, count in first.groups] == [9, 9, 9]
    assert second.share < 0.05
    assert second.p_value > 0.5


def test_few_or_equal_trials_say_nothing():
    point = {"optim.learning_rate": 1e-3, "train.batch_size": 8}
    assert importances([record(number, float(number), point=point) for number in range(7)], SPACE, BOTH) == []
    assert importances([record(number, 0.5, point=point) for number in range(20)], SPACE, BOTH) == []
    # A setting with one value everywhere has nothing to be compared with.
    assert all(
        each.share == 0 for each in importances([record(n, float(n), point=point) for n in range(20)], SPACE, BOTH)
    )
