"""`jepawm pretrain`: a video encoder that learns from clips alone, by predicting what it does not see.

jepawm pretrain --clips.paths DATASET                                tiny, in minutes
jepawm pretrain --recipe pretrain/tiny_progressive --clips.paths A B  frames and pixels grow from stage to stage
"""

from collections.abc import Sequence

from jepawm.config.command_line import Command, parse_as
from jepawm.config.pretrain import PretrainConfig

PRETRAIN = Command(
    prog="jepawm pretrain",
    about="Pretrain a video encoder on clips of datasets or video files (V-JEPA), and export it to RUN/encoder, which "
    "`jepawm train --model.encoder.weights RUN/encoder` takes. The same command goes on where it was stopped.\n\n"
    "Stages are a list in the recipe; --stages.0.num-train-steps changes one of its entries.",
    common=(
        *("seed", "device", "local", "name", "run_dir", "resume", "max_gpu_hours"),
        *("clips.paths", "clips.fps", "clips.frame_step", "clips.held_out_fraction", "clips.loader"),
        *("masks.name", "model.encoder.name", "model.encoder.size", "model.encoder.weights"),
        *("optim.learning_rate", "train.precision", "scaling.num_workers", "tracking.mlflow"),
    ),
    recipes="pretrain",
    default_recipe="pretrain/tiny",
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line and pretrains."""
    config, recipe = parse_as(PretrainConfig, list(argv), PRETRAIN)
    # Imported after the command line is known to be right: neither --help nor a typing error should wait for torch.
    from jepawm.console import Console
    from jepawm.runs.pretrain import pretrain_run

    pretrain_run(config, recipe, Console())
    return 0
