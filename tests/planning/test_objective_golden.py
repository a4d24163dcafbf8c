"""Distances and weightings of the objective against golden vectors."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from jepawm.config.objective import Distance, ObjectiveConfig, Weighting
from jepawm.latent import Latent
from jepawm.planning import build_objective

PUBLISHED = {"l1": "L1", "l2": "L2", "cosine": "repr_sim"}


@pytest.mark.parametrize("weighting", ["last", "sum"])
@pytest.mark.parametrize("parts", ["visual", "both"])
@pytest.mark.parametrize("distance", PUBLISHED)
def test_costs_are_the_published_ones(golden: Path, distance: Distance, parts: str, weighting: Weighting) -> None:
    folder = golden / "planners" / "objectives"
    io, options = load_file(folder / "io.safetensors"), json.loads((folder / "config.json").read_text())

    def latent(prefix: str) -> Latent:
        # [T,B,view,rows,columns,channels] and [T,B,tokens,channels] to [B,T,tokens,channels].
        visual = io[f"{prefix}.visual"].flatten(2, 4).transpose(0, 1)
        return Latent(visual, io[f"{prefix}.proprio"].transpose(0, 1) if parts == "both" else None)

    candidates = latent("enc").map(lambda part: part[None])
    config = ObjectiveConfig(distance=distance, weighting=weighting, proprio_weight=options["alpha"])
    (found,) = build_objective(config, latent("goal")[:, 0])(candidates)
    expected = io[f"cost.{PUBLISHED[distance]}.{parts}.{weighting}"]
    if distance == "cosine":
        # The published cost is minus the cosine; ours is 0 at the goal.
        shift = 1 + (options["alpha"] if parts == "both" else 0)
        expected = expected + shift * (candidates.lead[-1] if weighting == "sum" else 1)
    torch.testing.assert_close(found, expected, rtol=options["rtol"], atol=options["atol"])
