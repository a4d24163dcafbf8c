"""Recipes, the command line, and what they answer to a wrong key or value."""

import errno
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from jepawm.cli.main import guarded
from jepawm.cli.main import main as jepawm_command
from jepawm.config import (
    DataConfig,
    EncoderConfig,
    EnvConfig,
    EvaluationConfig,
    LossConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimConfig,
    PlannerConfig,
    PredictorConfig,
    RunConfig,
    ScalingConfig,
    TrainConfig,
    home,
    to_dict,
)
from jepawm.config.command_line import parse
from jepawm.config.recipe_files import load_recipe, recipe_names
from jepawm.config.yaml_io import from_dict, load_yaml, save_yaml
from jepawm.errors import ConfigError, did_you_mean, require


def run_command(arguments: list[str]) -> int:
    """What `ray_jobs/*.py` do with a command line."""

    def main() -> int:
        parse(arguments)
        return 0

    return guarded(main)


# -- files -----------------------------------------------------------------------------------------------------------


def test_a_configuration_survives_yaml(tmp_path: Path) -> None:
    config = RunConfig(
        seed=7,
        env=EnvConfig(goal_marker=True),
        data=DataConfig(source="dataset", path="somewhere", loader="shards"),
        train=TrainConfig(batch_size=6),
        scaling=ScalingConfig(num_workers=3),
        evaluation=EvaluationConfig(protocols=("open_loop",)),
    )
    save_yaml(config, str(tmp_path / "config.yaml"))
    assert load_yaml(RunConfig, str(tmp_path / "config.yaml")) == config


def test_what_a_recipe_leaves_out_keeps_its_default() -> None:
    config = from_dict(RunConfig, {"planner": {"horizon": 8}, "evaluation": {"two_plan": {"max_chunks": 9}}})
    assert config.planner == PlannerConfig(horizon=8)
    assert config.evaluation.two_plan.max_chunks == 9
    assert config.evaluation.two_plan.replan_every == RunConfig().evaluation.two_plan.replan_every
    assert config.model == RunConfig().model


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"trian": {}}, r"mine.yaml: unknown key 'trian' \(did you mean 'train'\?\)"),
        ({"train": {"batchsize": 3}}, r"unknown key 'train.batchsize' \(did you mean 'batch_size'\?\)"),
        (
            {"model": {"encoder": {"latent_dims": 3}}},
            r"unknown key 'model.encoder.latent_dims' \(did you mean 'latent_dim'\?\)",
        ),
        (
            {"evaluation": {"two_plan": {"zzz": 1}}},
            r"unknown key 'evaluation.two_plan.zzz' \(known: cost, horizon, max_chunks",
        ),
        ({"train": 3}, r"'train' must be a mapping, found 3"),
        ({"train": {"batch_size": "many"}}, r"mine.yaml: 'train.batch_size': .*integer.*found 'many'"),
        ({"data": {"loader": "tape"}}, r"'data.loader': .*'cache'.*found 'tape'"),
        ({"evaluation": {"protocols": ["twice"]}}, r"'evaluation.protocols.0': .*found 'twice'"),
    ],
)
def test_a_wrong_key_or_type_is_named(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(RunConfig, data, "mine.yaml")


@pytest.mark.parametrize("text", ["train: [", "- 1\n- 2\n"])
def test_a_file_that_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"mine\.yaml (is not valid YAML|must be a mapping)"):
        load_recipe(str(path))


def test_recipes_are_found_by_name_and_wrong_names_answered() -> None:
    assert {"demo", "pusht_human"} <= set(recipe_names())
    with pytest.raises(ConfigError, match=r"unknown recipe 'dmo' \(did you mean 'demo'\?\)"):
        load_recipe("dmo")
    with pytest.raises(ConfigError, match=r"recipe file not found: no/such\.yaml"):
        load_recipe("no/such.yaml")


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_loads_and_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_recipe(name)
    assert load_recipe(name) == config
    assert jepawm_command(["recipes"]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.split()[0] == name)
    assert len(line.split()) > 3


# -- combinations ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: RunConfig(train=TrainConfig(batch_size=127), scaling=ScalingConfig(num_workers=2)),
            r"train.batch_size is global.*127 windows for 2 workers; use 126 or 128",
        ),
        (
            lambda: RunConfig(planner=PlannerConfig(horizon=5)),
            r"evaluation.two_plan.replan_every \(6\) is longer than a plan: planner.horizon is 5",
        ),
        (lambda: RunConfig(local=True, data=DataConfig(loader="stream")), r"data.loader 'stream' .*--local"),
        (
            lambda: RunConfig(local=True, scaling=ScalingConfig(num_workers=2)),
            r"--local .*num_workers must be 1, found 2",
        ),
        (
            lambda: RunConfig(local=True, scaling=ScalingConfig(num_planner_hosts=1)),
            r"--local plans in this one process; scaling.num_planner_hosts must be 0, found 1",
        ),
        (
            lambda: ScalingConfig(num_env_actors=3, num_planner_hosts=2),
            r"scaling.num_env_actors \(3\) must be a multiple of scaling.num_planner_hosts \(2\)",
        ),
        (
            lambda: ScalingConfig(gpus_per_worker=2),
            r"scaling.gpus_per_worker must be 0 or 1, found 2",
        ),
        (
            lambda: RunConfig(evaluation=EvaluationConfig(every_num_train_steps=750)),
            r"evaluation.every_num_train_steps \(750\) must be a multiple of train.checkpoint_every \(500\)",
        ),
        (lambda: ScalingConfig(gpus_per_planner_host=1.5), r"gpus_per_planner_host must be a whole number, or a share"),
        (lambda: RunConfig(data=DataConfig(source="dataset")), r"data.path is needed when data.source is 'dataset'"),
        (
            lambda: RunConfig(loss=LossConfig(variance=0, sigreg=0, inverse_dynamics=0)),
            r"every anti-collapse term is off .* freeze it \(model.encoder.trainable\)",
        ),
        (
            lambda: RunConfig(
                loss=LossConfig(name="teacher_forcing"),
                model=ModelConfig(predictor=PredictorConfig(name="feature", context_window=2)),
            ),
            r"num_frames_in_window 4 shows the predictor 3 frames at once, its learned position table holds 2; raise",
        ),
        (lambda: OptimConfig(weight_decay=-1), r"optim.weight_decay must not be negative, found -1"),
        (lambda: ObjectiveConfig(proprio_weight=-1), r"objective.proprio_weight must not be negative, found -1"),
        (lambda: LossConfig(covariance=-1), r"loss.covariance must not be negative, found -1"),
        (lambda: PlannerConfig(num_samples=4, num_elites=5), r"planner.num_elites must lie between 2 .*found 5"),
        (lambda: PlannerConfig(num_elites=1), r"planner.num_elites must lie between 2 .*found 1"),
        (lambda: DataConfig(num_frames_in_window=1), r"num_frames_in_window must be at least 2"),
        (lambda: DataConfig(held_out_fraction=1.0), r"held_out_fraction must lie in \[0, 1\), found 1.0"),
        (lambda: TrainConfig(log_every=0), r"train.log_every must be above 0, found 0"),
        (lambda: EncoderConfig(strides=(2, 2)), r"one number a layer, found 3, 3 and 2"),
        (
            lambda: EncoderConfig(name="vit", channels=(4,)),
            r"model.encoder.channels has no meaning for model.encoder.name 'vit'",
        ),
        (
            lambda: EncoderConfig(name="dinov2", tokenization="clip"),
            r"model.encoder.tokenization has no meaning for model.encoder.name 'dinov2'",
        ),
        (
            lambda: EncoderConfig(name="vit", size="giant"),
            r"size 'giant' is not a size of vit \(known: base, large, small, tiny\)",
        ),
        (lambda: EncoderConfig(name="none", latent_dim=8), r"'none' needs .*latent_dim and model.encoder.patch_size"),
        (
            lambda: EncoderConfig(name="dinov2", weights="timm", trainable=False, projector_dim=8),
            r"a projector behind a frozen pretrained encoder never trains",
        ),
        (lambda: PredictorConfig(name="feature", dropout=1.0), r"predictor.dropout must lie in \[0, 1\), found 1.0"),
        (lambda: LossConfig(temporal_variance=-1), r"loss.temporal_variance must not be negative, found -1"),
        (lambda: LossConfig(prediction=0), r"loss.prediction must be above 0, found 0"),
        (lambda: EvaluationConfig(protocols=()), r"evaluation.protocols must name at least one"),
        (lambda: EvaluationConfig(protocols=("open_loop",) * 2), r"evaluation.protocols names a protocol twice"),
        (lambda: RunConfig(seed=-1), r"seed must not be negative, found -1"),
        (lambda: RunConfig(device="cudda"), r"device must be auto, cpu, .* found 'cudda'"),
    ],
)
def test_values_that_cannot_work_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


def test_a_frozen_encoder_needs_no_anti_collapse_term() -> None:
    loss = LossConfig(variance=0, sigreg=0, inverse_dynamics=0)
    config = RunConfig(loss=loss, model=ModelConfig(EncoderConfig(trainable=False)))
    assert config.loss == loss


@pytest.mark.parametrize("term", ["variance", "sigreg", "inverse_dynamics"])
def test_one_anti_collapse_term_is_enough(term: str) -> None:
    off: dict[str, float] = {"variance": 0, "sigreg": 0, "inverse_dynamics": 0}
    assert getattr(RunConfig(loss=LossConfig(**{**off, term: 0.1})).loss, term) == 0.1


def test_a_protocol_that_is_not_played_may_be_longer_than_a_plan() -> None:
    config = RunConfig(planner=PlannerConfig(horizon=1), evaluation=EvaluationConfig(protocols=("per_chunk",)))
    assert config.evaluation.two_plan.replan_every == 6


def test_what_only_judges_a_model_is_no_part_of_its_identity() -> None:
    before, width, seed = RunConfig(), RunConfig(scaling=ScalingConfig(num_workers=2)), RunConfig(seed=1)
    assert before.training_identity() == width.training_identity()
    assert before.training_identity() != seed.training_identity()


# -- the command line ------------------------------------------------------------------------------------------------


def test_flags_go_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 4\nplanner: {horizon: 9}\n")
    config, recipe = parse(["--planner.num-samples", "50", "--recipe", str(path), "--evaluation.two-plan.cost", "sum"])
    assert recipe == str(path)
    assert (config.seed, config.planner.horizon, config.planner.num_samples) == (4, 9, 50)
    assert config.evaluation.two_plan.cost == "sum"
    assert config.evaluation.two_plan.max_chunks == RunConfig().evaluation.two_plan.max_chunks


def test_a_wrong_flag_exits_2_and_offers_the_right_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse(["--train.batch-sise", "3"])
    assert stop.value.code == 2
    told = capsys.readouterr().err
    assert "--train.batch-sise" in told
    assert "--train.batch-size INT" in told


@pytest.mark.parametrize(
    "arguments",
    [["--recipe", "dmo"], ["--recipe"], ["--local", "--data.loader", "stream"], ["--optim.learning-rate", "0"]],
)
def test_a_wrong_value_exits_2_with_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(arguments) == 2
    told = capsys.readouterr()
    assert told.err.startswith("error: ")
    assert told.err.count("\n") == 1
    assert not told.out


def printed_config(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stop:
        parse([*arguments, "--print-config"])
    assert stop.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("recipe", recipe_names())
def test_print_config_is_itself_a_recipe(recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--recipe", recipe, "--seed", "3", "--tracking.experiment", "it's: #1", "--optim.weight-decay", "1e-7"]
    path = tmp_path / "again.yaml"
    path.write_text(printed_config(arguments, capsys))
    assert load_recipe(str(path)) == parse(arguments)[0]


def test_print_config_says_where_each_value_comes_from(capsys: pytest.CaptureFixture[str]) -> None:
    lines = [line.strip() for line in printed_config(["--planner.horizon", "7"], capsys).splitlines()]
    assert "horizon: 7  # command line" in lines
    assert "num_episodes: 1920  # recipe demo" in lines
    assert "num_iterations_warm: 4  # default" in lines


def test_an_unknown_command_of_jepawm_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    assert jepawm_command(["recipe"]) == 2
    assert "unknown command 'recipe' (did you mean 'recipes'?)" in capsys.readouterr().err
    assert jepawm_command([]) == 0
    assert jepawm_command(["track", "sync", "no/such/run"]) != 0


# -- the rest --------------------------------------------------------------------------------------------------------


def test_only_known_errors_become_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def bug() -> int:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        guarded(bug)

    def full() -> int:
        raise OSError(errno.ENOSPC, "No space left on device", "/runs/x/eval.json")

    assert guarded(full) == 1
    told = "error: No space left on device (/runs/x/eval.json); free some space, then give the same command again\n"
    assert capsys.readouterr().err == told

    def unreadable() -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    with pytest.raises(PermissionError):
        guarded(unreadable)

    def interrupted() -> int:
        raise KeyboardInterrupt

    assert guarded(interrupted) == 130
    # Nothing is known of this command, so nothing is promised.
    assert capsys.readouterr().err == "interrupted by SIGINT\n"


def test_home_is_where_it_is_said_to_be(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("JEPAWM_HOME", str(tmp_path / "x"))
    assert home() == str(tmp_path / "x")
    monkeypatch.delenv("JEPAWM_HOME")
    monkeypatch.chdir(tmp_path)
    assert home() == str(tmp_path / "runs")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert home().endswith("jepawm-runs")


def test_did_you_mean_lists_all_where_nothing_is_close() -> None:
    assert did_you_mean("qqq", ["b", "a"]) == " (known: a, b)"


def test_a_missing_package_says_what_to_install() -> None:
    from jepawm.errors import MissingDependencyError

    with pytest.raises(MissingDependencyError, match=r'pip install "jepawm\[video\]"'):
        require("no_such_package_here", "video")
    assert require("json") is __import__("json")


def test_plain_dicts_hold_nothing_yaml_cannot_say() -> None:
    plain = to_dict(RunConfig())
    assert yaml.safe_load(yaml.safe_dump(plain)) == plain


def test_the_package_names_no_machine_and_no_registry() -> None:
    # A scheme by itself, as in messages about what may be given, names no machine.
    pattern = re.compile(
        r"localhost|127\.0\.0\.1|0\.0\.0\.0|pypi\.org|pythonhosted|index-url|https?://(?!www\.w3)\w[^/\s\"']*"
    )
    repo = Path(__file__).resolve().parents[2]
    files = [path for folder in ("jepawm", "envs", "ray_jobs", "tune_spaces") for path in (repo / folder).rglob("*")]
    texts = {path.relative_to(repo): path.read_text("utf-8") for path in files if path.suffix in (".py", ".yaml")}
    assert len(texts) > 40
    found = {(str(path), hit) for path, text in texts.items() for hit in pattern.findall(text)}
    # Where the published checkpoints lie is said once, in the one module that translates what is published; where
    # public datasets lie, in their manifest. A new host is added here as well, by someone who means it.
    assert {hit for path, hit in found if path == "jepawm/data/download/public_sources.yaml"} == {
        "https://developer.qualcomm.com",
        "https://diffusion-policy.cs.columbia.edu",
        "https://dino-wm.github.io",
        "https://droid-dataset.github.io",
        "https://files.osf.io",
        "https://huggingface.co",
        "https://osf.io",
        "https://rail-berkeley.github.io",
        "https://rail.eecs.berkeley.edu",
        "https://storage.googleapis.com",
        "https://www.deepmind.com",
        "https://www.di.ens.fr",
    }
    elsewhere = {(path, hit) for path, hit in found if path != "jepawm/data/download/public_sources.yaml"}
    assert elsewhere == {
        (place, "https://dl.fbaipublicfiles.com")
        for place in (
            *("jepawm/checkpoints/zoo.py", "jepawm/encoders/vjepa_files.py"),
            "jepawm/recipes/vjepa2_ac/droid.yaml",
        )
    }
