"""Walks a pickle opcode by opcode; every object in it stays a record."""

import pickletools
import re
from typing import Any

from jepawm.checkpoints.pickled.archive import Archive
from jepawm.checkpoints.pickled.names import DTYPES, MAKERS, named, recorded
from jepawm.checkpoints.pickled.parts import (
    Damaged,
    Global,
    Object,
    Refused,
    Storage,
    counted,
    hashable,
    kind_of,
    shown,
)

_WORK = 2_000_000


class Machine:
    """Walks a pickle; objects stay records. Only the opcodes `torch.save` can write are known."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, Storage] = {}
        self._work = 0

    def run(self, content: bytes) -> Any:
        """What the pickle holds."""
        for opcode, argument, _ in pickletools.genops(content):
            self.spend(1)
            if opcode.name == "STOP":
                return self._stack.pop()
            self._do(opcode.name, argument)
        raise Damaged("its pickle has no end")

    def spend(self, amount: int) -> None:
        """Counts opcodes and copied elements, so that a small file cannot ask for endless work."""
        self._work += amount
        if self._work > _WORK:
            raise Refused(f"takes more than {_WORK} operations to read, far more than any model")

    def _do(self, name: str, argument: Any) -> None:
        # Not valid after `_marked`, which puts the list below the mark in place.
        stack = self._stack
        match name:
            case "PROTO" | "FRAME":
                pass
            case "NONE" | "NEWTRUE" | "NEWFALSE":
                stack.append({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[name])
            case "BYTEARRAY8":
                stack.append(bytearray(argument))
            case "INT" | "BININT" | "BININT1" | "BININT2" | "LONG" | "LONG1" | "LONG4" | "FLOAT" | "BINFLOAT":
                stack.append(argument)
            case "STRING" | "BINSTRING" | "SHORT_BINSTRING" | "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8":
                stack.append(argument)
            case "UNICODE" | "SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8":
                stack.append(argument)
            case "MARK":
                self._below.append(stack)
                self._stack = []
            case "POP":
                # A mark may be popped as well.
                if stack:
                    stack.pop()
                else:
                    self._marked()
            case "POP_MARK":
                self._marked()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "EMPTY_TUPLE" | "EMPTY_LIST" | "EMPTY_DICT" | "EMPTY_SET":
                stack.append({"EMPTY_TUPLE": tuple, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}[name]())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                items = [stack.pop() for _ in range(int(name[-1]))]
                stack.append(tuple(reversed(items)))
            case "TUPLE":
                self._push(tuple(self._marked()))
            case "LIST":
                self._push(self._marked())
            case "FROZENSET":
                self._push(frozenset(hashable(item) for item in self._marked()))
            case "DICT":
                items = self._marked()
                self._push({})
                self._set_items(items)
            case "APPEND":
                item = stack.pop()
                self._extend([item])
            case "APPENDS":
                self._extend(self._marked())
            case "ADDITEMS":
                items = self._marked()
                target = self._stack[-1]
                if not isinstance(target, set):
                    raise Damaged(f"its pickle adds to {kind_of(target)}, expected a set")
                target.update(hashable(item) for item in items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                self._set_items([key, value])
            case "SETITEMS":
                self._set_items(self._marked())
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                stack.append(named(module, attribute))
            case "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(named(module, attribute))
            case "REDUCE":
                args, function = stack.pop(), stack.pop()
                stack.append(self._made(function, args))
            case "NEWOBJ" | "NEWOBJ_EX":
                # Keyword arguments are kept with the others: nothing reads them.
                kwargs = (stack.pop(),) if name == "NEWOBJ_EX" else ()
                args, cls = stack.pop(), stack.pop()
                stack.append(recorded(cls, args, *kwargs))
            case "BUILD":
                state = stack.pop()
                self._build(stack[-1], state)
            case "BINPERSID":
                stack.append(self._storage(stack.pop()))
            case _:
                raise Refused(f"uses the pickle opcode {name}, which torch.save does not write")

    def _push(self, value: Any) -> None:
        # A method, so that `self._stack` is looked up after the value, and with it `_marked`, is known.
        self._stack.append(value)

    def _marked(self) -> list[Any]:
        items, self._stack = self._stack, self._below.pop()
        return items

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if isinstance(target, Object):
            target = target.contents
        if not isinstance(target, list):
            raise Damaged(f"its pickle appends to {kind_of(target)}, expected a list")
        target.extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        pairs = zip(items[::2], items[1::2], strict=True)
        if isinstance(target, Object):
            target.contents.extend(pairs)
        elif isinstance(target, dict):
            target.update((hashable(key), value) for key, value in pairs)
        else:
            raise Damaged(f"its pickle sets items of {kind_of(target)}, expected a dict")

    def _made(self, function: Any, args: Any) -> Any:
        if isinstance(function, Global) and function.name in MAKERS:
            if not isinstance(args, tuple):
                raise Damaged(f"{function.name} is given {kind_of(args)}, expected a tuple of arguments")
            return MAKERS[function.name](self, args)
        return recorded(function, args)

    def _build(self, target: Any, state: Any) -> None:
        if isinstance(target, Object):
            if target.state is not None:
                raise Refused(f"gives a {shown(target.kind)} its state twice")
            target.state = state
        elif not (isinstance(target, dict) and isinstance(state, dict)):
            # An ordered dict may carry attributes (a state dict's version numbers), which are not needed.
            raise Refused(f"gives {kind_of(target)} a state, which only a recorded object may have")

    def _storage(self, identity: Any) -> Storage:
        if not isinstance(identity, tuple) or len(identity) != 5 or identity[0] != "storage":
            raise Refused(f"refers outside the pickle with {kind_of(identity)}, expected a storage of five parts")
        _, cls, key, location, numel = identity
        if not isinstance(cls, Global) or cls.name not in DTYPES:
            raise Refused(f"has a storage of {kind_of(cls)}, expected one of torch's storage types")
        if not isinstance(key, str) or not re.fullmatch(r"[A-Za-z0-9_]{1,64}", key) or not isinstance(location, str):
            raise Refused(f"has a storage named {shown(key)}, expected a number as text")
        storage = Storage(key, DTYPES[cls.name], counted(numel, f"the length of storage {key}"))
        found, claimed = self._archive.storage_bytes(key), storage.numel * storage.dtype.itemsize
        if claimed > found:
            raise Damaged(f"storage {key} claims {claimed} bytes, its record has {found}")
        if self._storages.setdefault(key, storage) != storage:
            raise Damaged(f"storage {key} is described in two ways")
        return storage
