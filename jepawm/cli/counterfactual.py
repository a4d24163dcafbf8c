"""`jepawm counterfactual`: what a trained model imagines under actions made by hand.

jepawm counterfactual --model RUN --actions FILE                          from the first held-out episode's start
jepawm counterfactual --model RUN --actions FILE --episode 3 --frame 20 --mp4
jepawm counterfactual --model RUN --actions FILE --observation PICTURE    from a picture
"""

from collections.abc import Sequence

from jepawm.config.counterfactual import CounterfactualJob

ABOUT = (
    "Show what a trained model imagines from one moment on under actions made by hand, branch beside branch: a page, "
    "an animation, and the latent distances between the branches. --model RUN and --actions FILE are needed; the head "
    "of jepawm/evaluation/branches.py and docs/evaluation.md show the YAML."
)


def main(argv: Sequence[str]) -> int:
    """Reads the command line and writes the page."""
    import tyro

    job = tyro.cli(CounterfactualJob, args=list(argv), prog="jepawm counterfactual", description=ABOUT)
    # Imported after the command line is known to be right: neither --help nor a typing error should wait for torch.
    from jepawm.console import Console
    from jepawm.runs.counterfactual import show_counterfactual

    show_counterfactual(job, Console())
    return 0
