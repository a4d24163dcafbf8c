"""`jepawm compare`: two or more evaluations beside each other, and whether they differ.

jepawm compare RUN RUN_B --html comparison.html
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro
from tyro.conf import Positional


@dataclass(frozen=True)
class Compare:
    """Compare evaluations with the first one: rates with intervals, and a paired test on the same episodes."""

    evaluations: Positional[tuple[str, ...]]
    """Two or more: a run's name, the folder of a run or an evaluation, or an eval.json."""
    html: Path | None = None
    """Also write a page."""
    json: Path | None = None
    """Also write the numbers."""

    def run(self) -> int:
        """Prints the comparison."""
        from jepawm.evaluation.compare import compare
        from jepawm.evaluation.compare_page import write_comparison
        from jepawm.files import write_json
        from jepawm.runs.comparison import load_results, print_comparison

        comparison = compare(load_results(self.evaluations))
        print_comparison(comparison, print)
        if self.html is not None:
            write_comparison(str(self.html), comparison)
            print(f"\npage         {self.html}")
        if self.json is not None:
            write_json(str(self.json), comparison.to_dict())
            print(f"\nnumbers      {self.json}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Reads the command line and compares."""
    return tyro.cli(Compare, args=list(argv), prog="jepawm compare").run()
