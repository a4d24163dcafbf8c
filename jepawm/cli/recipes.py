"""`jepawm recipes`: which recipes there are, and what each states."""

from collections.abc import Sequence
from dataclasses import dataclass

from tyro.conf import Positional

from jepawm.cli.group import run_group
from jepawm.config.yaml_io import flatten, read_recipe_text, recipe_about, recipe_layers, recipe_names


@dataclass(frozen=True)
class ListRecipes:
    """List the recipes that `jepawm train --recipe` knows."""

    def run(self) -> int:
        """Prints a line for each."""
        for name in recipe_names():
            print(f"{name:<14} {read_recipe_text(name).splitlines()[0].removeprefix('# ')}")
        return 0


@dataclass(frozen=True)
class ShowRecipe:
    """Show what a recipe and its parents state; `jepawm train --recipe NAME --print-config` shows every setting."""

    name: Positional[str]
    """A recipe's name, or a YAML file."""

    def run(self) -> int:
        """Prints the recipe's own words, then its settings, each with the recipe that states it."""
        layers = recipe_layers(self.name)
        print(recipe_about(self.name))
        if len(layers) > 1:
            print(f"extends {' -> '.join(name.removeprefix('recipe ') for name, _ in layers[-2::-1])}")
        stated: dict[str, tuple[object, str]] = {}
        for name, data in layers:
            stated |= {key: (value, name.removeprefix("recipe ")) for key, value in flatten(data).items()}
        width = max((len(key) for key in stated), default=0)
        for key, (value, name) in stated.items():
            print(f"{key:<{width}}  {value!s:<24}  {name}")
        return 0


def main(argv: Sequence[str]) -> int:
    """Runs one command; without a word, the list."""
    return run_group(
        argv,
        prog="jepawm recipes",
        about="Recipes: what `jepawm train` does when nothing else is said.",
        commands={"list": ListRecipes, "show": ShowRecipe},
        default="list",
    )
