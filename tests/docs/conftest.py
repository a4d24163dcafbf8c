"""What stands for the capitals in commands and examples: two small runs, a dataset, recipes."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from jepawm.config import EncoderConfig
from jepawm.config.command_line import parse
from jepawm.console import Console
from jepawm.data import EpisodeDataset
from jepawm.encoders import build_encoder
from jepawm.encoders.exported import export_encoder
from jepawm.files import write_json
from jepawm.runs.pipeline import run
from jepawm.runs.runtime import make_runtime

SIZES = {
    "train.num-train-steps": 4,
    "train.batch-size": 16,
    "train.diagnostics-windows": 32,
    "train.best-metric": "train/loss",
    "planner.num-samples": 16,
    "planner.num-elites": 4,
    "planner.num-iterations": 2,
    "evaluation.num-episodes": 3,
    "evaluation.num-animations": 1,
    "evaluation.protocols": "open_loop",
}


@dataclass(frozen=True)
class Surroundings:
    """What the pages assume a reader has.

    Attributes:
        folder: Where commands are typed.
        named: Paths for the placeholders.
    """

    folder: Path
    named: dict[str, str]

    def fill(self, word: str) -> str:
        """A word of a command with its placeholders replaced: `RUN/model`, `DATASET`."""
        head, slash, rest = word.partition("/")
        return f"{self.named[head]}{slash}{rest}" if head in self.named else word


@pytest.fixture(scope="session")
def surroundings(tmp_path_factory: pytest.TempPathFactory, wall_dataset: EpisodeDataset) -> Surroundings:
    """Two finished runs of the demo at a very small size, under a home of their own."""
    folder = tmp_path_factory.mktemp("reader")
    first, second = folder / "runs" / "demo-a", folder / "runs" / "demo-b"
    flags = [word for key, value in SIZES.items() for word in (f"--{key}", str(value))]
    of_data = ["--data.source", "dataset", "--data.path", str(wall_dataset.path)]
    config, recipe = parse(["--local", "--tracking.no-mlflow", *of_data, "--run-dir", str(first), *flags])
    runtime = make_runtime(config)
    try:
        run(config, recipe, runtime, Console(quiet=True))
    finally:
        runtime.close()
    shutil.copytree(first, second)
    # The second run solves another episode than the first, so that comparing them has something to count.
    result = json.loads((second / "eval.json").read_text())
    for episodes in (result["episodes"], result["protocols"][result["protocol"]]["episodes"]):
        episodes[0]["solved"] = not episodes[0]["solved"]
    write_json(str(second / "eval.json"), result)
    for name in ("SOURCE", "FILE", "NAME"):
        (folder / name.lower()).touch()
    # What a pretraining leaves in its run.
    pretrained = EncoderConfig(
        name="vjepa2", latent_dim=24, depth=2, num_heads=2, patch_size=8, normalization="imagenet"
    )
    export_encoder(build_encoder(pretrained, 64), first / "encoder")
    named = {
        "RUN": str(first),
        "RUN_B": str(second),
        "DATASET": str(wall_dataset.path),
        **{name: str(folder / name.lower()) for name in ("SOURCE", "PATH", "FILE", "FOLDER", "DEST")},
    }
    return Surroundings(folder, named)
