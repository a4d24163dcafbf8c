"""Pickles made to do harm, by Python or by hand: each is refused by name, and nothing in it runs."""

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
from pickle_files import packed
from torch import nn

from jepawm.checkpoints.pickled import read_modules
from jepawm.errors import CheckpointError

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
