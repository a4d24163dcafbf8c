"""`jepawm train-head`: a head on the frozen latents of a trained model.

jepawm train-head --model RUN --head.name image                         draws what the model imagines
jepawm train-head --model RUN --head.name inverse_dynamics              a policy without search (GC-IDM)
jepawm train-head --model RUN --head.name distance --data.path DATASET  how many model steps a goal is away
jepawm train-head --model RUN --head.name macro                         macro-actions, for goals that lie far away
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from jepawm.config.command_line import tagged_sections, take_value
from jepawm.config.head import HeadConfig, HeadJob

ABOUT = (
    "Train a head on the frozen latents of a trained model, measure it on held-out episodes, and save it beside the "
    "model (RUN/model/heads/NAME), where jepawm.load, evaluation and report find it. It needs no Ray, and runs on a "
    f"CPU.\n\n--head.name decides what other --head flags there are: {', '.join(HeadConfig.kinds)}."
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line, trains and saves the head."""
    import tyro

    name, words = take_value(list(argv), "--head.name", f"one of {', '.join(HeadConfig.kinds)}")
    default = HeadJob()
    if name is not None:
        settings: dict[str, Any] = {"name": name}
        for section, union in tagged_sections(HeadConfig.kind(name)).items():
            inner, words = take_value(words, f"--head.{section}.name", f"one of {', '.join(union.kinds)}")
            if inner is not None:
                settings[section] = union(name=inner)  # type: ignore[call-arg]
        default = replace(default, head=HeadConfig(**settings))
    job = tyro.cli(HeadJob, args=words, default=default, prog="jepawm train-head", description=ABOUT)
    # Imported after the command line is known to be right: neither --help nor a typing error should wait for torch.
    from jepawm.console import Console
    from jepawm.runs.heads import train_head

    train_head(job, Console())
    return 0
