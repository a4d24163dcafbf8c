"""`jepawm data cache list | clear`: the decoded copies of datasets on this machine."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from jepawm.data.loading.cache_folder import CacheEntry


@dataclass(frozen=True)
class Cache:
    """List or clear the decoded copies of datasets on this machine; training makes them again when it needs them.

    They lie in $JEPAWM_CACHE (else ~/.cache/jepawm/frames) and together stay below $JEPAWM_CACHE_LIMIT_GIB (else 100);
    the least recently used copy goes first.
    """

    action: Positional[Literal["list", "clear"]]
    """`list` them, or `clear` all that no process uses."""
    names: Positional[tuple[str, ...]] = ()
    """With `clear`: only these, by the first column of the list."""

    def run(self) -> int:
        """Prints a line for each copy and a line about all."""
        from rich.filesize import decimal

        from jepawm.data.loading.cache_folder import CacheFolder, cache_limit_bytes
        from jepawm.errors import ConfigError

        folder = CacheFolder()
        if self.action == "list":
            if self.names:
                raise ConfigError(f"jepawm data cache list takes no names, found {' '.join(self.names)}")
            entries = folder.entries()
            for entry in entries:
                print(_line(entry))
            held = decimal(sum(entry.nbytes for entry in entries))
            print(f"{folder.root}: {len(entries)} copies, {held} of at most {decimal(int(cache_limit_bytes()))}")
            return 0
        gone, kept = folder.clear(self.names)
        for entry in kept:
            print(f"{_line(entry)}: stays, a process uses it")
        print(f"{folder.root}: removed {len(gone)} copies, {decimal(sum(entry.nbytes for entry in gone))}")
        return 0


def _line(entry: "CacheEntry") -> str:
    from rich.filesize import decimal

    from jepawm.runs.listing import age_text

    use = "in use" if entry.in_use else f"used {age_text(entry.used_at_s)} ago"
    return f"{entry.path.name}  {entry.dataset or 'unfinished'}  {decimal(entry.nbytes)}  {use}"
