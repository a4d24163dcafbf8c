"""Metrics: a local JSONL file is the truth; a progress bar and a tracker read along.

One process writes `metrics.jsonl` (rank 0 of training). The driver follows the file in a thread, so a tracker that is
slow, locked or gone never delays an update.
"""

import json
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepawm.errors import DataError
from jepawm.files import atomic_file

METRICS_FILE = "metrics.jsonl"
# Evaluations while training goes on; the driver writes it, and a worker the other one.
EVALUATIONS_FILE = "evaluations.jsonl"

Record = dict[str, Any]


class MetricsWriter:
    """Appends one flat record a line.

    Args:
        path: The file.
        resume_step: On a resume, records after this train step belong to updates that were lost, and are dropped.
    """

    def __init__(self, path: str, *, resume_step: int | None = None) -> None:
        self.path = path
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        kept: list[Record] = []
        if resume_step is not None:
            kept = [record for record in read_metrics(path) if record.get("train_step", 0) <= resume_step]
        # A new file under the old name tells a follower to begin at its start.
        with atomic_file(path) as temporary:
            temporary.write_text("".join(json.dumps(record) + "\n" for record in kept))

    def write(self, record: Record) -> None:
        """Appends a record with the time of day, in seconds since 1970."""
        append_metrics(self.path, record)


def append_metrics(path: str, record: Record) -> None:
    """Appends a record with the time of day, in seconds since 1970."""
    with open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps({**record, "time_s": time.time()}) + "\n")


def read_metrics(path: str) -> list[Record]:
    """All whole records of a metrics file; an unfinished last line (a kill) is left out.

    Raises:
        DataError: A line that is not JSON.
    """
    return list(_records(path)) if os.path.exists(path) else []


def _records(path: str) -> Iterator[Record]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith("\n"):
                return
            yield _record(line, f"{path}: line {number}")


def _record(line: str | bytes, where: str) -> Record:
    try:
        record: Record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{where} is not JSON: {error}; delete the line to read the others") from error
    if not isinstance(record, dict):
        raise DataError(f"{where} is no record but {line.strip()!r}; delete the line to read the others")
    return record


@dataclass
class MetricsPlace:
    """How far a file was read: a look costs what was appended since the last one, however long the file is.

    Attributes:
        inode: Of the file that was read.
        offset: Bytes read, up to the end of a line.
    """

    inode: int = -1
    offset: int = 0

    def new_records(self, path: str) -> Iterator[Record]:
        """Whole records since the last look; all of them where the file is another one.

        A damaged line is warned about and left out: what follows it is whole.
        """
        if not os.path.exists(path):
            return
        with open(path, "rb") as file:
            inode = os.fstat(file.fileno()).st_ino
            if inode != self.inode:
                self.inode, self.offset = inode, 0
            file.seek(self.offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.offset += len(line)
                try:
                    yield _record(line, f"{path}: the line that ends at byte {self.offset}")
                except DataError as error:
                    warnings.warn(str(error), stacklevel=2)


class MetricsFollower:
    """Follows a metrics file from another thread and hands each new record on, also of train steps that are made again.

    Args:
        path: The file; it may not exist yet.
        on_record: Called with each record, in order.
        poll_s: Time between two looks, seconds.
    """

    def __init__(self, path: str, on_record: Callable[[Record], None], *, poll_s: float = 0.2) -> None:
        self.path = path
        self.on_record = on_record
        self.poll_s = poll_s
        self._stop = threading.Event()
        self._seen_step, self._seen_time_s = -1, -math.inf
        self._place = MetricsPlace()
        self._thread = threading.Thread(target=self._follow, name="metrics-follower", daemon=True)

    def __enter__(self) -> "MetricsFollower":
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _follow(self) -> None:
        while True:
            stopping = self._stop.is_set()
            # A resume writes the file anew, with records that were handed on already, and makes train steps again. The
            # time says which is which, or the train step where another node's clock is behind.
            for record in self._place.new_records(self.path):
                step, time_s = record.get("train_step", -1), record.get("time_s", -math.inf)
                if step > self._seen_step or time_s > self._seen_time_s:
                    self._seen_step, self._seen_time_s = step, max(time_s, self._seen_time_s)
                    self.on_record(record)
            if stopping:
                return
            self._stop.wait(self.poll_s)
