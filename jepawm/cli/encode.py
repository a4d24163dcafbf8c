"""`jepawm encode`: the frames of a dataset through a frozen encoder, once.

jepawm encode --model RUN                                             the encoder of a trained model, its own episodes
jepawm encode --model RUN --data.source dataset --data.path DATASET   other episodes
"""

from collections.abc import Sequence

from jepawm.cli.evaluate import model_layers, model_of
from jepawm.config.command_line import Command, parse, take_value

ENCODE = Command(
    prog="jepawm encode",
    about="Encode every frame of a dataset with a frozen encoder, and keep the features beside the episodes. Training "
    "with --data.features stored reads them in place of frames. The same command goes on where a kill stopped it.\n\n"
    "--model RUN or MODEL: the encoder of a trained model; without it the recipe's, which must be pretrained and "
    "frozen.",
    common=(
        *("seed", "device", "local"),
        *("env.id", "env.image_size", "data.source", "data.path", "data.features_dtype"),
        *("model.encoder.name", "model.encoder.weights", "model.encoder.trainable"),
    ),
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line, prepares the episodes and encodes them."""
    model, words = take_value(list(argv), "--model", "a run or a model folder")
    model_dir = None if model is None else model_of(model)
    config, _ = parse(words, ENCODE, base=None if model_dir is None else model_layers(model_dir))
    from jepawm.runs.early import check_names

    check_names(config)
    from jepawm.console import Console
    from jepawm.runs.features import encode_run

    encode_run(config, Console(), model_dir)
    return 0
