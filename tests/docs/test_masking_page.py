"""docs/masking.md: its settings are settings, its shares are measured, and the strategy that it shows draws masks."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from jepawm.config.masking import MaskConfig
from jepawm.config.yaml_io import field_types, from_dict, to_dict
from jepawm.pretraining.masks import Cues, TokenGrid, build_masks


@pytest.fixture(scope="module")
def page(repo: Path) -> str:
    return (repo / "docs" / "masking.md").read_text("utf-8")


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)


def test_the_table_names_every_strategy_with_its_own_settings(page: str) -> None:
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", page.split("## Realised")[0], flags=re.MULTILINE)
    assert {name for name, _ in rows} == set(MaskConfig.kinds)
    for name, settings in rows:
        # Settings of a mask set stand in brackets.
        top = re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", settings))
        assert set(top) == set(field_types(MaskConfig.kind(name))) - {"name"}
        for field in re.findall(r"`(\w+)`", " ".join(re.findall(r"\((.*?)\)", settings))):
            assert hasattr(MaskConfig(name=name).sets[0], field)


def test_the_settings_of_the_page_are_read(page: str) -> None:
    (text,) = blocks(page, "yml")
    config = from_dict(MaskConfig, yaml.safe_load(text)["masks"])
    assert [(one.target_share, one.context_share) for one in config.sets] == [(0.9, None), (0.7, 0.07)]


def test_strategies_are_set_to_the_shares_that_multiblock_keeps(page: str) -> None:
    names: dict[str, Any] = {}
    exec(blocks(page, "python")[0], names)
    for measured, one in zip(names["shares"], names["tubes"].sets, strict=True):
        assert (one.target_share, one.context_share) == (measured.target_share, measured.context_share)


def test_the_strategy_of_the_page_is_chosen_by_its_place(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "save it as `my_masks.py`" in page
    (tmp_path / "my_masks.py").write_text(blocks(page, "python")[1], encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        config = from_dict(MaskConfig, {"name": "my_masks:BandMaskConfig"})
        assert from_dict(MaskConfig, to_dict(config)) == config
        grid = TokenGrid(2, 4, 3)
        (masks,) = build_masks(config, 8).draw(
            grid, num_clips=5, rows=slice(1, 4), counter=0, generator=torch.Generator().manual_seed(0), cues=Cues()
        )
    finally:
        sys.modules.pop("my_masks", None)
    assert masks.target_BM.shape == masks.context_BL.shape == (3, 12)
    for target, context in zip(masks.target_BM, masks.context_BL, strict=True):
        hidden_rows = (target // grid.columns % grid.rows).unique()
        assert hidden_rows.diff().tolist() == [1]
        assert torch.cat([target, context]).sort().values.tolist() == list(range(grid.num_tokens))


def test_the_contract_that_the_page_names_is_there(page: str, repo: Path) -> None:
    assert "`STRATEGIES` in `tests/pretraining/masks/test_mask_contract.py`" in page
    assert "\nSTRATEGIES: dict" in (repo / "tests/pretraining/masks/test_mask_contract.py").read_text("utf-8")
