"""Which trials a study has, what tells them apart, and what passes the checks before anything starts."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_study import STATISTICS, STUDY

from jepawm.config import EncoderConfig, from_dict, to_dict
from jepawm.config.compact import frozen_encoder
from jepawm.config.encoder import VJEPA21EncoderConfig
from jepawm.config.study import StudyConfig, study_from_dict
from jepawm.data import EpisodeDataset
from jepawm.encoders import build_encoder
from jepawm.encoders.exported import export_encoder
from jepawm.encoders.vjepa_files import VJEPA21_FILES, VJEPA21_URL
from jepawm.errors import CheckpointError, ConfigError
from jepawm.nn import weights as weights_module
from jepawm.runs import study_plan as study_plan_module
from jepawm.runs.study_plan import PlannedTrial, check_study, planned_trials, study_plan
from jepawm.study.cells import weights_digest
from jepawm.study.records import StudyFolder

SMALL = {"latent_dim": 16, "depth": 4, "num_heads": 2, "patch_size": 16}


def study(**changes: Any) -> StudyConfig:
    return study_from_dict({**STUDY, "seeds": [0], "fractions": [1.0], "transfers": {}, **changes}, "test")


def with_settings(**settings: Any) -> StudyConfig:
    return study(settings={**STUDY["settings"], **settings})


def planned(plan: StudyConfig, tmp_path: Path) -> list[PlannedTrial]:
    return planned_trials(plan, StudyFolder(tmp_path / "study"))


def identities(plan: StudyConfig, tmp_path: Path) -> list[str]:
    return [trial.identity for trial in planned(plan, tmp_path)]


def test_weights_that_a_library_knows_by_a_name_pass_the_checks(tmp_path: Path, monkeypatch) -> None:
    """The name is no path; the file that it stands for is in the cache of weights."""
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    monkeypatch.setenv("JEPAWM_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    name = "vjepa2_1_vit_base_384"
    base = {"name": "vjepa2_1", "size": "base", "normalization": "imagenet", "trainable": False, **SMALL}
    plan = study(
        encoders={
            "vjepa": {
                "weights": name,
                "weights_key": "model.encoder.base.weights",
                "settings": {**STATISTICS, "model.encoder.base": base},
            }
        }
    )
    trials = planned(plan, tmp_path)
    with pytest.raises(CheckpointError, match=r"wall-vjepa-100pct-seed0: .*not in the local cache"):
        check_study(plan, trials)
    built = build_encoder(VJEPA21EncoderConfig(size="base", **SMALL), trials[0].config.env.image_size)
    path = tmp_path / "published.pt"
    torch.save({"ema_encoder": built.state_dict()}, path)
    located: list[str] = []

    def fetched(url: str, hint: str) -> str:
        located.append(url)
        return str(path)

    monkeypatch.setattr(weights_module, "_from_url", fetched)
    check_study(plan, trials)
    assert set(located) == {f"{VJEPA21_URL}/{VJEPA21_FILES[name][1]}"}


def test_a_larger_share_that_is_added_leaves_all_parts_as_they_were(tmp_path: Path) -> None:
    alone = planned(study(fractions=[0.5]), tmp_path)[0]
    beside = next(trial for trial in planned(study(fractions=[0.5, 1.0]), tmp_path) if "50pct" in trial.name)
    assert beside.identity == alone.identity
    assert {part.key for part in beside.parts} < {part.key for part in alone.parts}
    assert [part.name for part in beside.parts] == ["probes"]


def test_labels_of_equal_settings_share_a_trial_that_measures_what_either_asks_for(tmp_path: Path) -> None:
    encoder = STUDY["encoders"]["statistics"]
    plan = study(encoders={"one": {**encoder, "fractions": [0.5, 1.0]}, "other": {**encoder, "fractions": [0.5]}})
    shared = next(trial for trial in planned(plan, tmp_path) if "50pct" in trial.name)
    assert [cell.encoder for cell in shared.cells] == ["one", "other"]
    assert [part.name for part in shared.parts] == ["probes", "feature probes", "cost", "reconstruction"]
    assert len({part.key for part in shared.parts}) == 4


def test_episodes_sets_and_trained_models_count_by_what_they_hold(tmp_path: Path) -> None:
    episodes, model = tmp_path / "episodes.json", tmp_path / "model"
    episodes.write_text("one")
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"one")

    def now() -> str:
        settings = {"evaluation": {**STUDY["settings"]["evaluation"], "episodes": str(episodes)}}
        return identities(with_settings(**settings, **{"train.init_from": str(model)}), tmp_path)[0]

    first = now()
    episodes.write_text("two")
    second = now()
    (model / "model.safetensors").write_bytes(b"two")
    assert len({first, second, now()}) == 3
    episodes.write_text("one")
    (model / "model.safetensors").write_bytes(b"one")
    assert now() == first


def test_a_dataset_counts_by_its_fingerprint(wall_dataset: EpisodeDataset, tmp_path: Path) -> None:
    def of(path: Path) -> str:
        data = {**STUDY["settings"]["data"], "source": "dataset", "path": str(path)}
        return identities(with_settings(data=data), tmp_path)[0]

    copied, other = tmp_path / "copied", tmp_path / "other"
    shutil.copytree(wall_dataset.path, copied)
    assert of(copied) == of(Path(wall_dataset.path))
    # Nothing is there: the path is all that is known.
    assert len({of(other), of(tmp_path / "another"), of(copied)}) == 3


def test_a_file_of_weights_is_read_once_for_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "encoder.pt"
    file.write_bytes(b"weights")
    read: list[str] = []

    def noted(source: str) -> str:
        read.append(source)
        return weights_digest(source)

    monkeypatch.setattr(study_plan_module, "weights_digest", noted)
    settings = {**STATISTICS, "model.encoder.base": {"name": "dinov2", "trainable": False, "weights": str(file)}}
    plan = study(seeds=[0, 1, 2], fractions=[0.5, 1.0], encoders={"dinov2": {"settings": settings}})
    assert len(planned(plan, tmp_path)) == 6
    assert read == [str(file)]


def test_a_list_of_weights_has_one_for_each_seed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("first.pt", "second.pt", "third.pt")]
    for file in files:
        file.write_text(file.name)

    def of(seeds: list[int], weights: Any) -> dict[int, PlannedTrial]:
        base = {"name": "dinov2", "trainable": False}
        encoder = {
            "settings": {**STATISTICS, "model.encoder.base": base},
            "weights_key": "model.encoder.base.weights",
            "weights": weights,
        }
        return {trial.config.seed: trial for trial in planned(study(seeds=seeds, encoders={"a": encoder}), tmp_path)}

    named = [str(file) for file in files]
    found = of([4, 2], named[:2])
    assert {seed: frozen_encoder(trial.config.model.encoder).weights for seed, trial in found.items()} == {
        4: named[0],
        2: named[1],
    }
    # A seed that is added leaves the trials of the others, and the list is no part of what a trial is.
    more = of([4, 2, 7], named)
    assert {seed: more[seed].identity for seed in (4, 2)} == {seed: found[seed].identity for seed in (4, 2)}
    assert of([2], named[1])[2].identity == found[2].identity
    with pytest.raises(ConfigError, match=r"encoders.a.weights lists 2 for 3 seeds \[0, 1, 2\]"):
        of([0, 1, 2], named[:2])
    with pytest.raises(ConfigError, match=r"encoders.a.weights names a file twice"):
        of([0, 1], [named[0], named[0]])


def test_a_plan_has_the_labels_of_each_trial_and_one_tracker(tmp_path: Path) -> None:
    encoder = STUDY["encoders"]["statistics"]
    both = planned(study(encoders={"one": encoder, "other": encoder}), tmp_path)
    assert [dict(labels) for labels in study_plan(both).labels.values()] == [
        {"environment": "wall", "encoder": "one, other", "share": "100 %"}
    ]
    # Another tracker alone would make it the same trial.
    elsewhere = {"settings": {**encoder["settings"], "tracking.experiment": "mine", "optim.learning_rate": 1e-4}}
    plan = study(encoders={"one": encoder, "other": elsewhere})
    with pytest.raises(ConfigError, match="wall-other-100pct-seed0 has other settings `tracking` than wall-one"):
        check_study(plan, planned(plan, tmp_path))


VIDEO = {"name": "vjepa2", "latent_dim": 24, "depth": 2, "num_heads": 2, "patch_size": 8, "normalization": "imagenet"}


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """The run of a pretraining, with the encoder folder that it left."""
    export_encoder(build_encoder(from_dict(EncoderConfig, VIDEO), 64), tmp_path / "run" / "encoder")
    return tmp_path / "run"


def of_base(base: dict[str, Any], weights: Path) -> StudyConfig:
    settings = {**STATISTICS, "model.encoder.base": {"trainable": False, "tokenization": "frame", **base}}
    entry = {"needs_weights": True, "weights_key": "model.encoder.base.weights", "settings": settings}
    return study(encoders={"vjepa": {**entry, "weights": str(weights)}})


@pytest.mark.parametrize("inside", ["", "encoder"])
def test_an_encoder_folder_brings_its_widths(pretrained: Path, inside: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path))
    plan = of_base({"name": "vjepa2"}, pretrained / inside)
    trials = planned(plan, tmp_path)
    base = frozen_encoder(trials[0].config.model.encoder)
    assert {key: to_dict(base)[key] for key in VIDEO} == VIDEO
    check_study(plan, trials)


@pytest.mark.parametrize("stated", [{"latent_dim": 32}, {**VIDEO, "rotary_pairing": "published", "latent_dim": 32}])
def test_widths_other_than_the_folders_are_refused(pretrained: Path, stated: dict[str, Any], tmp_path: Path) -> None:
    """Before any weights are read, whether one of the settings is stated or most of them."""
    plan = of_base({"name": "vjepa2", **stated}, pretrained)
    with pytest.raises(
        ConfigError, match=r"wall-vjepa-100pct-seed0: .*other settings, found model.encoder.latent_dim 32"
    ):
        planned(plan, tmp_path)
