"""`jepawm recipes`: which recipes there are, what each states, and what it would take to train one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from jepawm.cli.group import run_group
from jepawm.config.pretrain import PretrainConfig
from jepawm.config.recipe import RecipeAbout, about_recipe
from jepawm.config.recipe_files import (
    all_recipe_names,
    command_of,
    load_recipe,
    read_recipe_text,
    recipe_about,
    recipe_layers,
)
from jepawm.config.run import RunConfig
from jepawm.config.yaml_io import flatten, resolve

# Widths of action and proprio of the environments that recipes name; others are counted with 2 numbers each.
_WIDTHS = {
    "metaworld-v1": (4, 4),
    "pusht-v1": (2, 4),
    "pointmaze-v1": (2, 4),
    "droid-v1": (7, 7),
    "rope-v1": (4, 1),
    "granular-v1": (4, 1),
}


@dataclass(frozen=True)
class ListRecipes:
    """List the recipes that `jepawm train --recipe` and `jepawm pretrain --recipe` know."""

    def run(self) -> int:
        """Prints a line for each."""
        width = max(map(len, all_recipe_names()))
        for name in all_recipe_names():
            print(f"{name:<{width}} {read_recipe_text(name).splitlines()[0].removeprefix('# ')}")
        return 0


@dataclass(frozen=True)
class ShowRecipe:
    """Show what a recipe states, where it was published, and what it would take to train it.

    `jepawm train --recipe NAME --print-config` shows every setting, for recipes in `pretrain/` `jepawm pretrain`.
    """

    name: Positional[str]
    """A recipe's name, or a YAML file."""
    small: bool = False
    """The recipe at the small size that it states."""
    gpu: Literal["h100", "a100", "rtx4090"] = "h100"
    """GPU that hours are estimated for."""
    needs: bool = True
    """Count memory, arithmetic and hours: seconds, for a large model some ten of them."""

    def run(self) -> int:
        """Prints the recipe's own words, its settings with the recipe that states each, and the estimate."""
        layers = recipe_layers(self.name, small=self.small)
        print(recipe_about(self.name))
        parents = [name.removeprefix("recipe ") for name, _ in recipe_layers(self.name)][-2::-1]
        if parents:
            print(f"extends {' -> '.join(parents)}")
        stated: dict[str, tuple[object, str]] = {}
        for name, data in layers:
            stated |= {key: (value, name.removeprefix("recipe ")) for key, value in flatten(data).items()}
        width = max((len(key) for key in stated), default=0)
        for key, (value, name) in stated.items():
            print(f"{key:<{width}}  {value!s:<24}  {name}")
        about = about_recipe(self.name)
        print()
        if command_of(self.name) == "pretrain":
            needs = _needs_of_pretraining(resolve(PretrainConfig, layers)[0], self)
        else:
            needs = _needs(load_recipe(self.name, small=self.small), about, self)
        for line in [*_origin(about), *needs]:
            print(line)
        return 0


def _origin(about: RecipeAbout) -> list[str]:
    """Paper, results and contradictions, as lines."""
    lines = [f"paper       {about.paper}"] if about.paper else []
    lines += [f"from        {about.table}"] if about.table else []
    lines += [f"published   {result}" for result in about.published]
    lines += [f"published   {about.published_time}"] if about.published_time else []
    lines.append(f"ours        {about.ours or 'not trained at this size here'}")
    return lines + [f"note        {note}" for note in about.notes]


def _needs(config: RunConfig, about: RecipeAbout, shown: ShowRecipe) -> list[str]:
    """Windows, steps, memory and hours, as lines."""
    data, train = config.data, config.train
    windows, whose = None, ""
    if data.source == "collect" and data.num_episodes:
        trained = round(data.num_episodes * (1 - data.held_out_fraction))
        span = (data.num_frames_in_window - 1) * data.frameskip
        windows, whose = trained * max(0, data.env_steps_per_episode + 1 - span), "collected episodes"
    elif about.dataset.episodes:
        windows = about.dataset.num_windows(num_frames_in_window=data.num_frames_in_window, frameskip=data.frameskip)
        whose = f"{about.dataset.episodes:,} episodes of {about.dataset.name}"
        whose += "" if about.dataset.exact else ", estimated"
    lines = []
    if windows:
        steps = windows / train.batch_size
        lines.append(f"epoch       {windows:,} windows ({whose}) = {steps:,.0f} train steps")
        lines.append(f"training    {train.num_train_steps:,} train steps = {train.num_train_steps / steps:,.1f} epochs")
    else:
        lines.append(f"training    {train.num_train_steps:,} train steps")
    lines.append(f"batch       {train.arithmetic(config.scaling.num_workers)} windows")
    if not shown.needs:
        return lines
    from jepawm.training.estimate import GPUS, UTILISATION, estimate_training

    gpu = GPUS[shown.gpu]
    action, proprio = _WIDTHS.get(config.env.short_name, (2, 2))
    found = estimate_training(
        config.training_plan(), action_dim=action, proprio_dim=proprio, num_workers=config.scaling.num_workers
    )
    frozen = f", {found.frozen_parameters:,} frozen" if found.frozen_parameters else ""
    precision = "16 bits" if found.half else "float32"
    return [
        *lines,
        f"parameters  {found.trained_parameters:,} trained{frozen}",
        f"memory      {found.memory_gib:.1f} GiB for each worker's share of the batch (counted, without short-lived "
        "tensors)",
        f"arithmetic  {found.flops_per_window / 1e9:.3g} GFLOP a window, forward and backward (counted)",
        f"time        {found.hours(gpu):.3g} hours on one {gpu.name} (estimated: {precision} at {UTILISATION:.0%} of "
        "its peak, no wait for data; narrow models reach less)",
    ]


def _needs_of_pretraining(config: PretrainConfig, shown: ShowRecipe) -> list[str]:
    """Steps, clips and parameters, as lines."""
    lines = [f"training    {config.num_train_steps:,} train steps in {len(config.stages)} stage(s)"]
    for number, stage in enumerate(config.stages, start=1):
        share = stage.batch_size // config.scaling.num_workers
        lines.append(
            f"stage {number}     {stage.num_train_steps:,} train steps of {stage.batch_size:,} clips "
            f"({config.scaling.num_workers} worker(s) x {share}), {stage.num_frames} frames of {stage.image_size} px: "
            f"{stage.num_train_steps * stage.batch_size:,} clips"
        )
    if not shown.needs:
        return lines
    from jepawm.training.estimate import pretraining_parameters

    encoder, predictor = pretraining_parameters(config.model)
    return [*lines, f"parameters  {encoder:,} of the encoder, {predictor:,} of the predictor"]


def main(argv: Sequence[str]) -> int:
    """Runs one command; without a word, the list."""
    return run_group(
        argv,
        prog="jepawm recipes",
        about="Recipes: what `jepawm train` does when nothing else is said.",
        commands={"list": ListRecipes, "show": ShowRecipe},
        default="list",
    )
