"""Checkpoints of whole pickled modules give the modules' state dicts, and nothing in them runs."""

import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pickle_files import packed, unpacked
from torch import Tensor, nn

from jepawm.checkpoints.pickled import read_modules
from jepawm.errors import CheckpointError

# The published classes at tiny widths, under the published module names.
PREDICTOR = """
import torch
from torch import nn

class FeedForward(nn.Module):
    def __init__(self, dim, hidden, dropout):
        super().__init__()
        self.net = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout),
                                 nn.Linear(hidden, dim), nn.Dropout(dropout))

class Attention(nn.Module):
    def __init__(self, dim, heads, dim_head, dropout):
        super().__init__()
        self.heads, self.scale = heads, dim_head ** -0.5
        self.norm = nn.LayerNorm(dim)
        self.attend, self.dropout = nn.Softmax(dim=-1), nn.Dropout(dropout)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Sequential(nn.Linear(heads * dim_head, dim), nn.Dropout(dropout))
        self.bias = torch.ones(1, 1, 6, 6).tril()

class Transformer(nn.Module):
    def __init__(self, dim, depth, heads, dim_head, hidden, dropout):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.layers = nn.ModuleList([nn.ModuleList([Attention(dim, heads, dim_head, dropout),
                                                    FeedForward(dim, hidden, dropout)]) for _ in range(depth)])

class ViTPredictor(nn.Module):
    def __init__(self):
        super().__init__()
        self.pos_embedding = nn.Parameter(torch.randn(1, 6, 8))
        self.dropout = nn.Dropout(0.0)
        self.transformer = Transformer(8, 2, 2, 4, 12, 0.1)
        self.pool = "mean"
"""
PROPRIO = """
from torch import nn

class ProprioceptiveEmbedding(nn.Module):
    def __init__(self, in_chans, emb_dim):
        super().__init__()
        self.patch_embed = nn.Conv1d(in_chans, emb_dim, kernel_size=1, stride=1)
"""
VQVAE = """
import torch
from torch import nn
from einops.layers.torch import Rearrange

class Quantize(nn.Module):
    def __init__(self, dim, n_embed):
        super().__init__()
        embed = torch.randn(dim, n_embed)
        self.register_buffer("embed", embed)
        self.register_buffer("cluster_size", torch.zeros(n_embed))
        self.register_buffer("embed_avg", embed.clone())
        self.register_buffer("scratch", torch.randn(3), persistent=False)
        self.register_buffer("absent", None)
        self.register_parameter("nothing", None)

class VQVAE(nn.Module):
    def __init__(self):
        super().__init__()
        self.quantize_b = Quantize(4, 5)
        self.arrange = Rearrange("b (h w) d -> b d h w", h=2)
        self.dec = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
                                 nn.ConvTranspose2d(4, 3, 4, stride=2, padding=1))
"""
ACCELERATE = """
import enum

class DistributedType(str, enum.Enum):
    NO = "NO"

class AcceleratedOptimizer:
    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.kind = DistributedType.NO
        self.scaler = None
"""
SOURCES = {
    "models": "",
    "models.vit": PREDICTOR,
    "models.proprio": PROPRIO,
    "models.vqvae": VQVAE,
    "accelerate": "",
    "accelerate.optimizer": ACCELERATE,
}
Save = Callable[..., str]


class Classes:
    """The published classes, importable only until `gone` is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, source in SOURCES.items():
            module = types.ModuleType(name)
            monkeypatch.setitem(sys.modules, name, module)
            exec(source, module.__dict__)

    def __getattr__(self, name: str) -> Any:
        return next(vars(sys.modules[module])[name] for module in SOURCES if name in vars(sys.modules[module]))

    def gone(self) -> None:
        for name in SOURCES:
            del sys.modules[name]


@pytest.fixture
def classes(monkeypatch: pytest.MonkeyPatch) -> Classes:
    torch.manual_seed(0)
    return Classes(monkeypatch)


@pytest.fixture
def save(classes: Classes, tmp_path: Path) -> Save:
    """Saves as the original did, then takes the classes away."""

    def write(content: Any, **options: Any) -> str:
        path = tmp_path / "model_latest.pth"
        torch.save(content, path, **options)
        classes.gone()
        return str(path)

    return write


def same(found: Any, module: nn.Module) -> None:
    expected = module.state_dict()
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype
        assert type(found[name]) is Tensor
        assert not found[name].requires_grad
        assert torch.equal(found[name], value)


# What modules are read as.


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_published_checkpoint_becomes_state_dicts(classes: Classes, save: Save, protocol: int) -> None:
    predictor, decoder = classes.ViTPredictor(), classes.VQVAE()
    action, proprio = classes.ProprioceptiveEmbedding(10, 10), classes.ProprioceptiveEmbedding(4, 10)
    optimizer = torch.optim.AdamW(predictor.parameters(), lr=5e-4)
    sum(p.square().sum() for p in predictor.parameters()).backward()
    optimizer.step()
    content = {
        "epoch": 100,
        "predictor": predictor,
        "predictor_optimizer": classes.AcceleratedOptimizer(optimizer),
        "decoder": decoder,
        "decoder_optimizer": torch.optim.Adam(decoder.parameters()),
        "action_encoder": action,
        "proprio_encoder": proprio,
        "loss": np.float32(0.25),
        "count": np.int64(-7),
        "note": "été",
        "encoder": None,
    }
    found = read_modules(save(content, pickle_protocol=protocol))
    assert [key for key in found if "optimizer" not in key] == [key for key in content if "optimizer" not in key]
    assert not [key for key in found if "optimizer" in key]
    for key in ("predictor", "decoder", "action_encoder", "proprio_encoder"):
        same(found[key], content[key])
    assert (found["epoch"], found["note"], found["encoder"]) == (100, "été", None)
    assert (found["loss"], type(found["loss"]), found["count"], type(found["count"])) == (0.25, float, -7, int)


def test_published_names_are_kept_and_what_is_no_state_is_not(classes: Classes, save: Save) -> None:
    found = read_modules(save({"predictor": classes.ViTPredictor(), "decoder": classes.VQVAE()}))
    names = set(found["predictor"])
    assert {"pos_embedding", "transformer.norm.weight", "transformer.layers.1.0.to_qkv.weight"} <= names
    assert {"transformer.layers.0.0.to_out.0.bias", "transformer.layers.0.1.net.4.weight"} <= names
    # The causal mask is a plain attribute.
    assert "transformer.layers.0.0.bias" not in names
    assert {"quantize_b.embed", "quantize_b.cluster_size", "quantize_b.embed_avg"} <= set(found["decoder"])
    assert not {"quantize_b.scratch", "quantize_b.absent", "quantize_b.nothing"} & set(found["decoder"])


def test_reading_imports_nothing(classes: Classes, save: Save) -> None:
    path = save({"decoder": classes.VQVAE()})
    before = set(sys.modules)
    read_modules(path)
    assert set(sys.modules) == before
    assert "models.vqvae" not in sys.modules


def test_kinds_of_numbers_views_and_ties(save: Save) -> None:
    module, shared = nn.Module(), torch.arange(24.0)
    for dtype in (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int32, torch.int16, torch.int8):
        module.register_buffer(f"of_{dtype}".replace(".", "_"), torch.arange(6).to(dtype))
    module.register_buffer("of_truth", torch.tensor([True, False]))
    module.register_buffer("of_bytes", torch.tensor([1, 255], dtype=torch.uint8))
    module.register_buffer("of_waves", torch.randn(3, dtype=torch.complex64))
    module.register_buffer("scalar", torch.tensor(3))
    module.register_buffer("empty", torch.zeros(0, 4))
    module.register_buffer("rows", shared.view(4, 6)[1:3])
    module.register_buffer("columns", shared.view(4, 6).t()[2:])
    module.register_buffer("expanded", torch.ones(1).expand(3, 5))
    module.first, module.second = nn.Linear(3, 3), nn.Linear(3, 3)
    module.second.weight = module.first.weight
    module.again = module.first
    found = read_modules(save({"m": module}))["m"]
    assert isinstance(found, dict)
    same(found, module)
    found["rows"][0, 2] = -1
    assert found["columns"][0, 1] == -1
    assert found["rows"].stride() == module.rows.stride()
    assert found["columns"].stride() == module.columns.stride()
    assert found["first.weight"].data_ptr() == found["second.weight"].data_ptr()


def test_a_cycle_beside_the_module_tree_is_no_obstacle(save: Save) -> None:
    module = nn.Linear(2, 3)
    module.__dict__["parents"] = [module, {"self": module}]
    module.anchor = object()
    same(read_modules(save({"m": module}))["m"], module)


def test_a_wrapper_for_data_parallel_training_is_taken_off(classes: Classes, save: Save) -> None:
    plain = classes.ViTPredictor()
    wrapped = nn.DataParallel(plain)
    same(read_modules(save({"predictor": wrapped}))["predictor"], plain)


def test_a_distributed_wrapper_is_taken_off(classes: Classes, save: Save) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        plain = classes.ProprioceptiveEmbedding(4, 10)
        path = save({"proprio_encoder": nn.parallel.DistributedDataParallel(plain)})
    finally:
        dist.destroy_process_group()
    same(read_modules(path)["proprio_encoder"], plain)


def test_state_keeps_no_modules_of_the_wrapper_inside(save: Save) -> None:
    inside = nn.Sequential(nn.DataParallel(nn.Linear(2, 2)))
    assert list(read_modules(save({"m": inside}))["m"]) == ["0.module.weight", "0.module.bias"]


@pytest.mark.parametrize("order", ["little", "big"])
def test_the_byteorder_record_is_respected(save: Save, tmp_path: Path, order: str) -> None:
    module = nn.Linear(2, 3)
    module.register_buffer("brain", torch.arange(5, dtype=torch.bfloat16))
    module.register_buffer("count", torch.arange(5))
    module.register_buffer("wave", torch.randn(2, dtype=torch.complex64))
    records = unpacked(save({"m": module}))
    if order != sys.byteorder:
        widths = {12: 4, 24: 4, 10: 2, 40: 8, 16: 4}
        for name, content in records.items():
            if "/data/" in name:
                width = widths[len(content)]
                records[name] = b"".join(content[i : i + width][::-1] for i in range(0, len(content), width))
    records["model_latest/byteorder"] = order.encode()
    same(read_modules(packed(tmp_path / "other.pth", records))["m"], module)
    records["model_latest/byteorder"] = b"middle"
    with pytest.raises(CheckpointError, match="expected little or big"):
        read_modules(packed(tmp_path / "strange.pth", records))


# Damage.


def test_every_truncation_and_flipped_byte_is_named_or_harmless(classes: Classes, save: Save, tmp_path: Path) -> None:
    module = classes.ProprioceptiveEmbedding(4, 10)
    content = Path(save({"m": module})).read_bytes()
    path = tmp_path / "broken.pth"
    for length in range(0, len(content), 37):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match="damaged or truncated"):
            read_modules(str(path))
    generator = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        broken[generator.integers(len(content))] ^= 1 << generator.integers(8)
        path.write_bytes(broken)
        try:
            same(read_modules(str(path))["m"], module)
        except CheckpointError:
            continue


def test_damaged_pickles_are_named(classes: Classes, save: Save, tmp_path: Path) -> None:
    """The same with sound checksums, so that the pickle's own reader meets the damage."""
    records = unpacked(save({"m": classes.ProprioceptiveEmbedding(4, 10), "epoch": np.float64(1)}))
    content, generator = records["model_latest/data.pkl"], np.random.default_rng(0)
    refused = 0
    for _ in range(1500):
        broken = bytearray(content)
        for _ in range(generator.integers(1, 4)):
            broken[generator.integers(len(content))] = generator.integers(256)
        records["model_latest/data.pkl"] = bytes(broken[: generator.integers(1, len(content) + 1)])
        try:
            read_modules(packed(tmp_path / "broken.pth", records))
        except CheckpointError:
            refused += 1
    assert refused > 1000


@pytest.mark.parametrize("size", [0, 1, 4, 1000])
def test_random_bytes_are_no_checkpoint(tmp_path: Path, size: int) -> None:
    path = tmp_path / "random.pth"
    path.write_bytes(np.random.default_rng(0).bytes(size))
    with pytest.raises(CheckpointError, match="not a zip file"):
        read_modules(str(path))


def test_the_old_format_and_missing_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "old.pth"
    torch.save({"epoch": 1}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch before 1\.6"):
        read_modules(str(path))
    with pytest.raises(CheckpointError, match=r"missing\.pth cannot be read"):
        read_modules(str(tmp_path / "missing.pth"))
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_modules(str(tmp_path))
