"""Every parameter count in docs/models.md is that of the built model; every hub name is one timm knows."""

import re
from pathlib import Path

import pytest
import torch
from configs import unit_spec
from published_files import published_model, published_parts
from torch import nn

from jepawm.checkpoints.model_folder import build_world_model
from jepawm.checkpoints.zoo import ZOO
from jepawm.config import EncoderConfig
from jepawm.config.recipe_files import load_recipe
from jepawm.encoders import build_encoder
from jepawm.encoders.dino import DINOV2_SIZES, DINOV3_SIZES
from jepawm.heads import ImageHead, StateHead, TransposedConvDecoder, VQVAEDecoder
from jepawm.types import ActionSpec

pytest.importorskip("timm")

RECIPES = ("lewm", "pldm", "lewm_small", "pldm_small")


@pytest.fixture(scope="module")
def table(repo: Path) -> dict[tuple[str, str], int]:
    """First two cells of each row of the page, and the number with commas in it."""
    rows = {}
    for line in (repo / "docs" / "models.md").read_text().splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        numbers = [cell for cell in cells if re.fullmatch(r"\d{1,3}(,\d{3})+", cell)]
        if line.startswith("|") and len(numbers) == 1:
            rows[cells[0], cells[1]] = int(numbers[0].replace(",", ""))
    return rows


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def built() -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    sizes = {
        "dinov2": DINOV2_SIZES,
        "dinov3": DINOV3_SIZES,
        "vjepa1": ("large",),
        "vjepa2": ("tiny", "small", "base", "large", "huge", "giant"),
        "vjepa2_1": ("base", "large", "giant", "gigantic"),
        "vit": ("tiny", "small", "base", "large"),
        "resnet18": ("",),
        "r3m": ("",),
    }
    with torch.device("meta"):
        for name, each in sizes.items():
            for size in each:
                config = EncoderConfig(name=name, **({"size": size} if size else {}))
                found[name, size] = count(build_encoder(config, 224))
        for name in ZOO:
            predictor = published_parts(published_model(name))["predictor"]
            encoder = {"dinov2": "DINOv2 S, 224 px", "dinov3": "DINOv3 L, 256 px", "vjepa2": "V-JEPA 2 g, 256 px"}
            found[name, encoder[ZOO[name].encoder.name]] = sum(value.numel() for value in predictor.values())
        heads = {
            "image, DINOv2 S at 224 px": ImageHead(384),
            "image, DINOv3 L at 256 px": ImageHead(1024, image_size=256),
            "image, V-JEPA 2 g at 256 px": ImageHead(1408, image_size=256, depth=12),
            "state, Push-T": StateHead(384, 7),
            "VQ-VAE decoder": VQVAEDecoder(),
            "transposed convolutions": TransposedConvDecoder(),
        }
    for recipe in RECIPES:
        heads[recipe] = build_world_model(unit_spec(load_recipe(recipe), ActionSpec(2, (-1.0, -1.0), (1.0, 1.0))))
    return found | {(name, ""): count(head) for name, head in heads.items()}


def test_every_count_on_the_page_is_the_built_models(table: dict[tuple[str, str], int]) -> None:
    counts = built()
    # Heads and recipes have a number in the second cell.
    stated = {(name, "" if re.fullmatch(r"[\d,]+", second) else second): n for (name, second), n in table.items()}
    assert stated == counts


def test_lewm_has_the_published_size() -> None:
    recipes = {recipe: load_recipe(recipe) for recipe in RECIPES}
    assert recipes["lewm"].model == recipes["pldm"].model
    assert recipes["lewm_small"].model == recipes["pldm_small"].model
    assert recipes["lewm"].loss.sigreg == 0.09
    # 12 times the sum over D * (D - 1), of which the config's term divides by D.
    assert recipes["pldm"].loss.covariance == pytest.approx(12 / (192 - 1))
    assert recipes["pldm_small"].loss.covariance == pytest.approx(12 / (64 - 1))


def test_timm_fetches_its_weights_from_where_we_do() -> None:
    """Names only: no network is asked."""
    import timm

    wanted = [f"vit_{size}_patch14{registers}_dinov2.lvd142m" for size in DINOV2_SIZES for registers in ("", "_reg4")]
    wanted += [f"vit_{size}_patch16_dinov3_qkvb.lvd1689m" for size in DINOV3_SIZES]
    for name in [*wanted, "resnet18.tv_in1k"]:
        config = timm.get_pretrained_cfg(name)
        assert config.hf_hub_id == f"timm/{name}"
