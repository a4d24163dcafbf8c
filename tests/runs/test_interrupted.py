"""What is left of a run that was interrupted: how it goes on, and what is swept."""

from dataclasses import replace
from pathlib import Path

import pytest

from jepawm.config import DataConfig, EnvConfig, RunConfig
from jepawm.config.compact import CompactEncoderConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.runs.directory import LOCK_FILE, sweep_leftovers
from jepawm.runs.pipeline import _how_to_go_on
from jepawm.runs.tracking import run_tags, used_params


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        (
            (),
            "no checkpoint was written yet, so the same command begins at train step 0 of 3000",
        ),
        ((500, 1000), "the same command goes on from train step 1000 of 3000"),
        ((2500, 3000), "training is done (train step 3000), and the same command goes on with the evaluation"),
    ],
)
def test_the_last_line_says_from_which_train_step_a_run_goes_on(
    saved: tuple[int, ...], said: str, tmp_path: Path
) -> None:
    for step in saved:
        (tmp_path / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
    assert _how_to_go_on(RunConfig(), str(tmp_path)) == said
    # The same command would begin a new run, so the one that goes on is named.
    other = f"`jepawm train --recipe {tmp_path}/config.yaml --run-dir {tmp_path}`"
    assert _how_to_go_on(RunConfig(resume="never"), str(tmp_path)) == said.replace("the same command", other)


@pytest.mark.parametrize(
    ("saved", "said"),
    [
        ((), "no checkpoint was written yet, so the same command begins at train step 0 of 70 of the base encoder"),
        (("base/checkpoints/step-00000050",), "the same command goes on from train step 50 of 70 of the base encoder"),
        (
            ("base/checkpoints/step-00000070",),
            "the base encoder is trained (train step 70), and the same command goes on with the model on it",
        ),
        (
            ("base/checkpoints/step-00000070", "checkpoints/step-00000010"),
            "the same command goes on from train step 10 of 90",
        ),
    ],
)
def test_the_last_line_tells_of_the_base_encoder_while_that_trains(
    saved: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    for name in saved:
        (tmp_path / name).mkdir(parents=True)
    recipe = load_recipe("pusht")
    encoder = recipe.model.encoder
    assert isinstance(encoder, CompactEncoderConfig)
    stage = replace(encoder.base_training, train=replace(encoder.base_training.train, num_train_steps=70))
    config = replace(
        recipe,
        model=replace(recipe.model, encoder=replace(encoder, base_training=stage)),
        train=replace(recipe.train, num_train_steps=90),
    )
    assert _how_to_go_on(config, str(tmp_path)) == said


def test_what_a_kill_left_half_written_is_swept_and_nothing_else(tmp_path: Path) -> None:
    whole = ["config.yaml", LOCK_FILE, "model/model.safetensors", "checkpoints/step-00000010/model.safetensors"]
    half = ["model.tmp-77/config.yaml", "model.tmp-old-77/a", "eval.json.tmp-77", "checkpoints/step-00000020.tmp-77/a"]
    for name in whole + half:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    sweep_leftovers(str(tmp_path))
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == sorted(whole)
    assert {path.name for path in tmp_path.iterdir()} == {"config.yaml", LOCK_FILE, "model", "checkpoints"}


def test_a_tracker_is_told_what_a_run_used_and_what_it_is_about(wall_dataset) -> None:  # type: ignore[no-untyped-def]
    collected = used_params(RunConfig())
    assert collected["data.policy"] == "wall_mixed_walk"
    assert "scaling.num_workers" in collected
    assert "data.format" not in collected
    given = RunConfig(data=DataConfig(source="dataset", path="x"), env=EnvConfig(id="none"), local=True)
    used = used_params(given)
    assert {"data.path", "train.batch_size", "model.encoder.name", "env.id"} <= set(used)
    unused = ("data.policy", "data.num_episodes", "data.codec", "data.format")
    assert not [key for key in used if key in unused or key.startswith(("planner.", "objective.", "scaling."))]
    tags = run_tags(given, "demo", wall_dataset)
    assert tags["recipe"] == "demo"
    assert tags["environment"] == "none"
    assert tags["dataset_fingerprint"] == wall_dataset.fingerprint
    assert tags["code_version"]
    assert "dataset" not in run_tags(replace(given, name="x"), "demo", None)
