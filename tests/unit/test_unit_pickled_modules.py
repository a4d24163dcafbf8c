"""Checkpoints of whole pickled modules give the modules' state dicts, and nothing in them runs."""

import collections
import functools
import os
import pickle
import struct
import sys
import types
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepawm.errors import CheckpointError
from jepawm.pickled_modules import read_modules

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


def unpacked(path: str) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, records: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> str:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in records.items():
            archive.writestr(name, content)
    return str(path)


# Hostile files. Each payload would touch the canary if anything ran it.

STORAGE = b"\0" * 24


class Canary:
    """A file that a payload would make, and code and commands that make it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.command = f"touch {path}"
        self.code = f"open({str(path)!r}, 'w').close()"


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Canary]:
    yield (bird := Canary(tmp_path / "canary"))
    assert not bird.path.exists()


@pytest.fixture
def hostile(tmp_path: Path) -> Callable[[bytes], str]:
    """Writes a pickle as the `data.pkl` of a torch file with one storage of 24 bytes."""

    def write(content: bytes) -> str:
        records = {"a/data.pkl": content, "a/byteorder": b"little", "a/data/0": STORAGE, "a/version": b"3\n"}
        return packed(tmp_path / "hostile.pth", records)

    return write


class Calls:
    """Pickles as a call of `function` with `args`, then a state."""

    def __init__(self, function: Any, *args: Any, state: Any = None) -> None:
        self.parts = (function, args, state)

    def __reduce__(self) -> Any:
        return self.parts if self.parts[2] is not None else self.parts[:2]


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def called(module: str, name: str, *args: str) -> bytes:
    """Opcodes for `module.name(*args)`."""
    return f"c{module}\n{name}\n".encode() + b"(" + b"".join(map(text, args)) + b"tR"


def entry(value: bytes, key: str = "epoch") -> bytes:
    """A pickle of `{key: value}`."""
    return b"\x80\x02}" + text(key) + value + b"s."


MODULE = b"ctorch.nn.modules.linear\nLinear\n)\x81"


def test_the_canary_is_alive(tmp_path: Path) -> None:
    """The payloads below do run under pickle's own reader."""
    for payload in (Calls(os.system, Canary(tmp_path / "a").command), Calls(eval, Canary(tmp_path / "b").code)):
        pickle.loads(pickle.dumps(payload))
    pickle.loads(entry(called("posix", "system", Canary(tmp_path / "c").command)))
    assert all((tmp_path / name).exists() for name in "abc")


def python_payloads(canary: Canary) -> dict[str, tuple[Any, str]]:
    """What is pickled, and the name the refusal must show."""
    return {
        "os.system": (Calls(os.system, canary.command), "posix.system|nt.system"),
        "eval": (Calls(eval, canary.code), "builtins.eval"),
        "exec": (Calls(exec, canary.code), "builtins.exec"),
        "import": (Calls(__import__, "os"), "builtins.__import__"),
        "getattr": (Calls(getattr, nn.Linear, "__init__"), "builtins.getattr"),
        "getattr chain": (Calls(getattr, Calls(getattr, nn.Linear, "__init__"), "__globals__"), "builtins.getattr"),
        "torch.load": (Calls(torch.load, canary.command), "torch.serialization.load"),
        "torch.hub": (Calls(torch.hub.load, canary.command, "m"), "torch.hub.load"),
        "partial": (functools.partial(os.system, canary.command), "functools.partial"),
        "partial called": (Calls(functools.partial(os.system, canary.command)), "functools.partial"),
        "popen": (Calls(__import__("subprocess").Popen, canary.command), "commands.Popen"),
        "operator": (Calls(__import__("operator").methodcaller, "system", canary.command), "operator.methodcaller"),
        "importlib": (Calls(__import__("importlib").import_module, "os"), "importlib.import_module"),
        "state": (
            Calls(collections.OrderedDict, state={"x": Calls(os.system, canary.command)}),
            "posix.system|nt.system",
        ),
        "setattr": (Calls(setattr, nn.Linear, "forward", 1), "builtins.setattr"),
        "path": (Path(canary.path), "pathlib"),
        "numpy array": (np.arange(3), "numpy._core.multiarray._reconstruct|numpy.core.multiarray._reconstruct"),
    }


@pytest.mark.parametrize("name", sorted(python_payloads(Canary(Path("unused")))))
@pytest.mark.parametrize("place", ["top", "inside a module", "inside an optimizer", "instead of the mapping"])
def test_calls_are_refused_by_name(canary: Canary, tmp_path: Path, name: str, place: str) -> None:
    payload, shown = python_payloads(canary)[name]
    content: Any = {"epoch": payload}
    if place == "inside a module":
        content = {"m": nn.Linear(1, 1)}
        content["m"].__dict__["extra"] = [payload]
    elif place == "inside an optimizer":
        content = {"o": torch.optim.SGD([torch.ones(1)], lr=0.1)}
        content["o"].param_groups[0]["extra"] = {"deep": (payload,)}
    elif place == "instead of the mapping":
        content = payload
    path = str(tmp_path / "hostile.pth")
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=f"hostile.pth is not read: it names '({shown})") as caught:
        read_modules(path)
    assert str(caught.value).endswith("nothing in it was executed")


def opcodes(canary: Canary) -> dict[str, tuple[bytes, str]]:
    """Pickles by hand, and what the error says."""
    system = b"cposix\nsystem\n"
    command = text(canary.command)
    linear = b"ctorch.nn.modules.linear\nLinear\n"
    return {
        "reduce": (entry(called("posix", "system", canary.command)), "posix.system"),
        "python 2 name": (entry(called("__builtin__", "eval", canary.code)), "builtins.eval"),
        "stack global": (entry(text("posix") + text("system") + b"\x93" + command + b"\x85R"), "posix.system"),
        "dotted attribute": (entry(text("torch.nn") + text("modules.module.__builtins__") + b"\x93"), "__builtins__"),
        "dotted walk": (entry(text("torch.nn") + text("modules.module.os.system") + b"\x93"), "os.system"),
        "dunder": (entry(text("torch.nn.modules.module") + text("__builtins__") + b"\x93"), "__builtins__"),
        "empty part": (entry(text("torch.nn..x") + text("Linear") + b"\x93"), "torch.nn..x"),
        "near miss": (entry(b"cmodels_evil\nThing\n"), "models_evil.Thing"),
        "global of other than text": (entry(b"K\x01K\x02\x93"), "expected text"),
        "reconstructor": (entry(b"ccopyreg\n_reconstructor\n(" + linear + b"c__builtin__\nobject\nNtR"), "copyreg"),
        "reconstructor, python 2": (entry(b"ccopy_reg\n_reconstructor\n(" + linear + b"NNtR"), "copy_reg"),
        "inst": (entry(b"(" + command + b"iposix\nsystem\n"), "opcode INST"),
        "obj": (entry(b"(" + linear + command + b"o"), "opcode OBJ"),
        "obj of a function": (entry(b"(" + system + command + b"o"), "posix.system"),
        "newobj of a function": (entry(system + command + b"\x85\x81"), "posix.system"),
        "newobj of a container": (entry(b"c__builtin__\nset\n)\x81"), "instance of a builtins.set"),
        "newobj_ex": (entry(b"cposix\nsystem\n)}\x92"), "posix.system"),
        "extension": (entry(b"\x82\x01"), "opcode EXT1"),
        "text persistent id": (entry(b"Pposix\n"), "opcode PERSID"),
        "buffers": (entry(b"\x97"), "opcode NEXT_BUFFER"),
        "call of a text": (entry(command + command + b"\x85R"), "instance of a value of type str"),
        "call of a record": (entry(linear + b")\x81)R" + b"0N" + system), "instance of a torch.nn.modules.linear"),
        "state of a class": (entry(linear + b"}" + text("forward") + system + b"sb"), "posix.system"),
        "plain state of a class": (entry(linear + b"N}" + text("forward") + b"K\x01s\x86b"), "gives a torch.nn"),
        "state of a tensor": (entry(tensor() + b"(" + tensor() + b"K\x00))tb"), "gives a tensor a state"),
        "state of a set": (entry(b"\x8fN}" + text("add") + b"K\x01s\x86b"), "gives a value of type set a state"),
        "state twice": (entry(MODULE + b"}b}b"), "state twice"),
        "state with a hidden call": (entry(MODULE + b"}" + text("x") + b"](" + called("os", "system", "x") + b"esb"),
                                     "os.system"),
        "setter of a real class": (entry(b"ctorch\nSize\nN}" + text("numel") + b"K\x01s\x86b"), "torch.Size a state"),
        "string for a bytearray": (entry(b"c__builtin__\nbytearray\nJ\xff\xff\xff\x7f\x85R"), "builds bytes"),
        "deep key": (entry(b"})" + b"\x85" * 100_000 + b"K\x01s"), "for a key"),
        "wide key": (b"\x80\x02}" + b"\x8a\x09" + b"\xff" * 8 + b"\x01" + b"K\x01s.", "for a key"),
        "deep nesting": (entry(b"]" * 500_000 + b"a" * 499_999), "value of type list"),
        "deep nesting from inside": (entry(b")" + b"\x85" * 500_000), "value of type tuple"),
        "deep marks": (entry(b"(" * 500_000 + b"t" * 500_000), "value of type tuple"),
        "copies of copies": (entry(b"](" + b"N" * 1000 + b"eq\x000" +
                                   b"c__builtin__\nlist\nh\x00\x85R0" * 10_000 + b"N"), "operations to read"),
        "too many opcodes": (entry(b"N0" * 1_100_000 + b"N"), "operations to read"),
        "list at the top": (b"\x80\x02].", "expected a mapping of modules"),
        "number for a key": (b"\x80\x02}K\x01K\x01s.", "top-level key"),
        "list under a key": (entry(b"]"), "value of type list under 'epoch'"),
        "no module": (entry(b"cmodels.vit\nThing\n)\x81}b"), "models.vit.Thing under 'epoch'"),
    }  # fmt: skip


def identity(cls: str = "torch\nFloatStorage", key: str = "0", numel: bytes = b"K\x06", kind: str = "storage") -> bytes:
    return b"(" + text(kind) + f"c{cls}\n".encode() + text(key) + text("cuda:0") + numel + b"tQ"


def tensor(offset: bytes = b"K\x00", size: bytes = b"K\x02K\x03\x86", stride: bytes = b"K\x03K\x01\x86",
           end: bytes = b"", **options: Any) -> bytes:  # fmt: skip
    """Opcodes for a tensor of six floats."""
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    return rebuild + identity(**options) + offset + size + stride + b"\x89ccollections\nOrderedDict\n)R" + end + b"tR"


def module_with(weight: bytes, part: str = "_parameters", name: bytes = text("weight")) -> bytes:
    """Opcodes for a linear layer with one tensor."""
    parts = dict.fromkeys(("_parameters", "_buffers", "_modules"), b"}")
    parts[part] = b"}" + name + weight + b"s"
    return MODULE + b"}(" + b"".join(text(key) + value for key, value in parts.items()) + b"ub"


def test_allowed_names_are_recorded_and_never_used(
    canary: Canary, hostile: Callable[[bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where such a module is imported, neither its functions nor its classes' methods run."""
    module = types.ModuleType("models.vit")
    source = f"""
def function(*args, **kwargs):
    {canary.code}

class Thing:
    def __new__(cls, *args, **kwargs):
        function()
        return object.__new__(cls)

    __init__ = __setstate__ = __setattr__ = __hash__ = __eq__ = append = extend = __setitem__ = add = function
"""
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "models.vit", module)
    thing, function = b"cmodels.vit\nThing\n", b"cmodels.vit\nfunction\n"
    uses = [thing + b")\x81}b", thing + b")}\x92", thing + b")R", thing + b")\x81K\x01a", thing + b")\x81(K\x01K\x02u"]
    uses += [function + b")R", function + b"K\x01\x85R}b", b"}" + thing + b")\x81K\x01s", b"}" + thing + b"K\x01s"]
    state = b"}(" + b"".join(text(f"x{number}") + use for number, use in enumerate(uses)) + b"u"
    optimizer = b"ctorch.optim.sgd\nSGD\n)\x81" + state + b"b"
    assert read_modules(hostile(b"\x80\x02}(" + text("o") + optimizer + text("epoch") + b"K\x07u.")) == {"epoch": 7}


@pytest.mark.parametrize("name", sorted(opcodes(Canary(Path("unused")))))
def test_pickles_made_by_hand_are_refused(canary: Canary, hostile: Callable[[bytes], str], name: str) -> None:
    content, message = opcodes(canary)[name]
    with pytest.raises(CheckpointError, match=message.replace(".", r"\.")) as caught:
        read_modules(hostile(content))
    assert str(caught.value).endswith("nothing in it was executed")


def test_a_module_made_by_hand_is_read(hostile: Callable[[bytes], str]) -> None:
    found = read_modules(hostile(entry(module_with(tensor()), "m")))["m"]
    assert isinstance(found, dict)
    assert torch.equal(found["weight"], torch.zeros(2, 3))


LONG = b"\x8a\x08" + struct.pack("<q", 1 << 62)
ENDLESS = b"(" + b"K\x01" * 65 + b"t"
VIEWS = {
    "past the end": ({"size": b"K\x02K\x04\x86", "stride": b"K\x04K\x01\x86"}, "reaches to element 8 of storage 0"),
    "offset past the end": ({"offset": b"K\x01"}, "reaches to element 7"),
    "empty past the end": ({"offset": b"K\x07", "size": b"K\x00K\x03\x86"}, "reaches to element 7"),
    "negative size": ({"size": b"J\xff\xff\xff\xffK\x03\x86"}, "expected a count"),
    "negative stride": ({"stride": b"J\xff\xff\xff\xffK\x01\x86"}, "expected a count"),
    "negative offset": ({"offset": b"J\xff\xff\xff\xff"}, "expected a count"),
    "overflowing strides": ({"stride": LONG + LONG + b"\x86"}, "reaches to element"),
    "overflowing sizes": ({"size": LONG + LONG + b"\x86", "stride": b"K\x00K\x00\x86"}, "elements, more than"),
    "fractional size": ({"size": b"G?\xf0\0\0\0\0\0\0K\x03\x86"}, "expected a count"),
    "boolean size": ({"size": b"\x88K\x03\x86"}, "expected a count"),
    "sizes without strides": ({"stride": b"K\x01\x85"}, "do not belong together"),
    "sizes in a list": ({"size": b"]"}, "do not belong together"),
    "endless dimensions": ({"size": ENDLESS, "stride": ENDLESS}, "do not belong together"),
    "huge storage": ({"numel": LONG}, "its record has 24"),
    "wider storage": ({"cls": "torch\nDoubleStorage"}, "storage 0 claims 48 bytes, its record has 24"),
    "negative storage": ({"numel": b"J\xff\xff\xff\xff"}, "expected a count"),
    "missing storage": ({"key": "7"}, "storage '7' is not in the file"),
    "climbing storage": ({"key": "../data.pkl"}, "storage named '../data.pkl'"),
    "other persistent id": ({"kind": "module"}, "refers outside the pickle"),
    "no storage type": ({"cls": "torch.nn\nLinear"}, "expected one of torch's storage types"),
    "metadata": ({"end": b"}" + text("conj") + b"\x88s"}, "metadata"),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(VIEWS))
@pytest.mark.parametrize("place", ["module", "dropped"])
def test_tensors_stay_inside_their_storage(hostile: Callable[[bytes], str], name: str, place: str) -> None:
    options, message = VIEWS[name]
    value = tensor(**options)  # type: ignore[arg-type]
    optimizer = b"ctorch.optim.adamw\nAdamW\n)\x81}" + text("x") + value + b"sb"
    with pytest.raises(CheckpointError, match=message):
        read_modules(hostile(entry(module_with(value) if place == "module" else optimizer)))


def test_one_storage_has_one_description(hostile: Callable[[bytes], str]) -> None:
    other = tensor(cls="torch\nIntStorage")
    with pytest.raises(CheckpointError, match="storage 0 is described in two ways"):
        read_modules(
            hostile(b"\x80\x02}(" + text("a") + module_with(tensor()) + text("b") + module_with(other) + b"u.")
        )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (module_with(b"K\x01"), "'epoch.weight' is a value of type int, expected a tensor"),
        (module_with(tensor(), name=text("a.b")), "cannot name a tensor"),
        (module_with(tensor(), name=b"K\x01"), "cannot name a tensor"),
        (module_with(tensor(), name=text("x" * 2000)), "cannot name a tensor"),
        (module_with(b"K\x01", part="_modules"), "'epoch.weight' is a value of type int, expected a module"),
        (module_with(MODULE, part="_modules"), "expected a module"),
    ],
)
def test_modules_hold_tensors_and_modules(hostile: Callable[[bytes], str], value: bytes, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        read_modules(hostile(entry(value)))


def test_modules_inside_themselves_and_endless_paths_are_refused(hostile: Callable[[bytes], str]) -> None:
    empty = b"".join(text(key) + b"}" for key in ("_parameters", "_buffers"))
    cycle = MODULE + b"q\x01}(" + empty + text("_modules") + b"}" + text("self") + b"h\x01s" + b"ub"
    with pytest.raises(CheckpointError, match="nests modules without end"):
        read_modules(hostile(entry(cycle)))
    bomb = MODULE + b"}(" + empty + text("_modules") + b"}ubq\x00"
    for k in range(40):
        twice = b"}(" + text("a") + b"h" + bytes([k]) + text("b") + b"h" + bytes([k]) + b"u"
        bomb += b"0" + MODULE + b"}(" + empty + text("_modules") + twice + b"ubq" + bytes([k + 1])
    with pytest.raises(CheckpointError, match="nests modules without end"):
        read_modules(hostile(entry(bomb)))


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a/../../etc/x": b""}, "absolute, climbing"),
        ({"/a/x": b""}, "absolute, climbing"),
        ({"b/x": b""}, "outside its folder"),
        ({"b/data.pkl": b""}, "found 2"),
        ({"a/data.pkl": None}, "found 0"),
        ({"a/data/0": None}, "storage '0' is not in the file"),
        ({"a/data/0": b"\0" * 23}, "its record has 23"),
    ],
)
def test_records_lie_where_torch_puts_them(tmp_path: Path, change: dict[str, bytes | None], message: str) -> None:
    records = {"a/data.pkl": entry(module_with(tensor())), "a/data/0": STORAGE} | change
    path = packed(tmp_path / "odd.pth", {name: content for name, content in records.items() if content is not None})
    with pytest.raises(CheckpointError, match=message):
        read_modules(path)


def test_compressed_and_oversized_records_are_refused(tmp_path: Path) -> None:
    records = {"a/data.pkl": entry(module_with(tensor())), "a/data/0": STORAGE}
    with pytest.raises(CheckpointError, match="compressed or encrypted"):
        read_modules(packed(tmp_path / "packed.pth", records, zipfile.ZIP_DEFLATED))
    records["a/data.pkl"] = b"N" * (17 << 20)
    with pytest.raises(CheckpointError, match="more than 16777216"):
        read_modules(packed(tmp_path / "long.pth", records))


def test_records_that_overlap_are_refused(tmp_path: Path) -> None:
    """Many names for the same bytes would let a small file fill the memory."""
    path = tmp_path / "overlap.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", entry(b"K\x01"))
        archive.writestr("a/data/0", b"\0" * 4000)
        original = archive.getinfo("a/data/0")
        for number in range(1, 20):
            copy = zipfile.ZipInfo(f"a/data/{number}")
            copy.header_offset, copy.CRC = original.header_offset, original.CRC
            copy.file_size = copy.compress_size = original.file_size
            archive.filelist.append(copy)
    with pytest.raises(CheckpointError, match="its records claim"):
        read_modules(str(path))
