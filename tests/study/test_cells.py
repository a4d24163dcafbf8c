"""The grid of a study, what tells its trials apart, and what its file may not say."""

import itertools
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from jepawm.config.study import StudyConfig, read_study, study_from_dict
from jepawm.data.loading.split import train_share
from jepawm.errors import ConfigError
from jepawm.study.cells import cell_layers, cells, identity, weights_digest

PLAIN: dict[str, Any] = {
    "name": "small",
    "fractions": [0.5, 1.0],
    "seeds": [3, 1],
    "environments": {"wall": {"settings": {"env.id": "envs:envs/Wall-v1"}}, "maze": None},
    "encoders": {
        "conv": {"settings": {"model": {"encoder": {"name": "conv"}}}},
        "given": {"needs_weights": True, "environments": ["wall"], "fractions": [1.0], "seeds": [1]},
    },
}


def study(**changes: Any) -> StudyConfig:
    return study_from_dict({**PLAIN, **changes}, "test")


def test_the_grid_is_whole_and_begins_with_the_largest_share_and_the_first_seed() -> None:
    found = cells(study())
    assert len(found) == 2 * 2 * 2
    assert [(cell.fraction, cell.seed) for cell in found[:4]] == [(1.0, 3), (1.0, 3), (1.0, 1), (1.0, 1)]
    assert {cell.is_largest for cell in found if cell.fraction == 0.5} == {False}
    # Weights that are given add the trials of that encoder and no other.
    more = study(encoders={**PLAIN["encoders"], "given": {**PLAIN["encoders"]["given"], "weights": "a.pt"}})
    assert {cell.name for cell in cells(more)} - {cell.name for cell in found} == {"wall-given-100pct-seed1"}
    assert study().left_out == ("given",)


def test_a_part_of_the_encoders_is_the_same_trials_as_in_the_whole() -> None:
    encoders = {**PLAIN["encoders"], "more": {"settings": {"model": {"encoder": {"name": "vit"}}}}}
    whole, part = study(encoders=encoders), study(encoders=encoders, only_encoders=["more"])
    assert cells(part) == tuple(cell for cell in cells(whole) if cell.encoder == "more")
    # What is not asked about is not missed.
    assert (whole.left_out, part.left_out) == (("given",), ())
    ablations = {"size": {"arms": ["conv", "more"]}}
    assert study(encoders=encoders, ablations=ablations).wanted_ablations == ("size",)
    # Without its reference an ablation compares nothing.
    with_more = study(encoders=encoders, ablations=ablations, only_encoders=["more", "given"])
    assert with_more.wanted_ablations == ()
    with pytest.raises(ConfigError, match=r"only_encoders: unknown 'mor' \(did you mean 'more'\?\)"):
        study(encoders=encoders, only_encoders=["mor"])


def test_settings_lie_over_each_other_from_the_recipe_to_the_cell() -> None:
    cell = cells(study())[0]
    layers = cell_layers(study(settings={"train": {"num_train_steps": 7}}), cell, weights="w.pt")
    assert [data for _, data in layers[-4:]] == [
        {"train": {"num_train_steps": 7}},
        {"env": {"id": "envs:envs/Wall-v1"}},
        {"model": {"encoder": {"name": "conv", "weights": "w.pt"}}},
        {"seed": 3, "data": {"train_fraction": 1.0}},
    ]


def test_a_trial_is_what_it_does_and_not_where_it_runs() -> None:
    settings = {"seed": 0, "device": "cpu", "model": {"encoder": {"name": "vit", "weights": "here/a.pt"}}}
    one = identity(settings, weights="abc", data_seed=0)
    moved = {**settings, "device": "cuda", "model": {"encoder": {"name": "vit", "weights": "there/a.pt"}}}
    assert identity(moved, weights="abc", data_seed=0) == one
    others = [
        identity({**settings, "seed": 1}, weights="abc", data_seed=0),
        identity(settings, weights="abd", data_seed=0),
        identity(settings, weights="abc", data_seed=1),
    ]
    assert len({one, *others}) == 4


def test_what_is_only_shown_makes_no_other_trial_and_files_count_by_their_contents() -> None:
    settings = {"train": {"log_every": 1, "batch_size": 8}, "data": {"path": "here"}, "evaluation": {}}
    one = identity(settings, weights="", data_seed=0, contents={"data.path": "abc"})
    shown = {**settings, "train": {"log_every": 9, "batch_size": 8}, "evaluation": {"num_animations": 3}}
    assert identity(shown, weights="", data_seed=0, contents={"data.path": "abc"}) == one
    moved = {**settings, "data": {"path": "there"}}
    assert identity(moved, weights="", data_seed=0, contents={"data.path": "abc"}) == one
    others = [
        identity(settings, weights="", data_seed=0, contents={"data.path": "abd"}),
        identity(settings, weights="", data_seed=0),
        identity(moved, weights="", data_seed=0),
        identity({**settings, "train": {"log_every": 1, "batch_size": 9}}, weights="", data_seed=0),
    ]
    assert len({one, *others}) == 5


def test_weights_are_told_apart_by_what_the_files_hold(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "model.safetensors").write_bytes(b"one")
    before = weights_digest(str(tmp_path / "run"))
    (tmp_path / "run" / "notes.txt").write_text("no weights")
    (tmp_path / "run").rename(tmp_path / "moved")
    assert weights_digest(str(tmp_path / "moved")) == before
    (tmp_path / "moved" / "model.safetensors").write_bytes(b"two")
    assert weights_digest(str(tmp_path / "moved")) != before
    assert weights_digest("hf://owner/repo/file") == "hf://owner/repo/file"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder": {}}, "unknown key 'encoder' (did you mean 'encoders'?)"),
        ({"encoders": {"conv": {"setting": {}}}}, "unknown key 'setting'"),
        ({"encoders": {"a b": {}}}, "a label must be letters"),
        ({"environments": {}}, "environments must name at least one"),
        ({"fractions": [1.0, 0.5]}, "ascending shares"),
        ({"fractions": [0.0, 1.0]}, "ascending shares"),
        ({"seeds": [0, 0]}, "different whole numbers"),
        ({"ablations": {"x": {"arms": ["conv", "convv"]}}}, "unknown 'convv' (did you mean 'conv'?)"),
        ({"ablations": {"x": {"arms": ["conv"]}}}, "at least two different encoders"),
        ({"transfers": {"x": {"trained_on": "mall"}}}, "unknown 'mall' (did you mean 'wall'?)"),
        ({"measures": {"probe": True}}, "unknown key 'measures.probe'"),
        ({"encoders": {"r": {"random_weights": True, "needs_weights": True}}}, "exclude each other"),
    ],
)
def test_what_no_study_has_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        study(**changes)


def test_the_command_line_changes_what_the_file_has(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(PLAIN))
    changed = read_study(
        str(path),
        {"encoders.given.weights": "a.pt", "seeds": [5], "encoders.conv.settings.model.encoder.latent_dim": 8},
    )
    assert changed.encoders["given"].weights == "a.pt"
    assert changed.seeds == (5,)
    assert changed.encoders["conv"].settings == {"model": {"encoder": {"name": "conv", "latent_dim": 8}}}
    with pytest.raises(ConfigError, match=re.escape("has no encoders.givn (did you mean 'given'?)")):
        read_study(str(path), {"encoders.givn.weights": "a.pt"})


def test_shares_of_the_training_episodes_are_nested_and_follow_the_seed() -> None:
    ids = np.arange(3, 103)
    shares = [train_share(ids, fraction, seed=4) for fraction in (0.02, 0.1, 0.5, 1.0)]
    assert [len(share) for share in shares] == [2, 10, 50, 100]
    for smaller, larger in itertools.pairwise(shares):
        assert set(smaller.tolist()) < set(larger.tolist())
    assert train_share(ids, 0.1, seed=5).tolist() != shares[1].tolist()
    assert len(train_share(ids[:3], 0.02, seed=0)) == 1
