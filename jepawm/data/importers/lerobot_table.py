"""LeRobot's Parquet tables: some columns of a file, all rows or those of one episode."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jepawm.errors import DataError

# Columns that a table may lack; each camera has a column with the ending.
_OPTIONAL, _OPTIONAL_ENDING = ("tasks", "timestamp", "task_index"), "/to_timestamp"


def read_table(path: Path, columns: list[str]) -> pa.Table:
    """Some columns of a Parquet file.

    Raises:
        DataError: The file is missing or damaged, or lacks a column that is needed.
    """
    return EpisodeTable(path, columns).read()


class EpisodeTable:
    """A Parquet file that holds the rows of many episodes, opened once.

    Reading an episode costs the same in a file of many episodes as in one of few: the row groups of the last episode
    stay in memory, and the next episode usually lies in the same ones.

    Args:
        path: The file.
        columns: The columns to read.

    Raises:
        DataError: The file is missing or damaged, or lacks a column that is needed.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        self.path = path
        if not path.is_file():
            raise DataError(f"{path}: no such file")
        with _readable(path):
            self._file = pq.ParquetFile(path)
            names = self._file.schema_arrow.names
        for column in columns:
            if column not in names and column not in _OPTIONAL and not column.endswith(_OPTIONAL_ENDING):
                raise DataError(f"{path}: the column '{column}' is missing (there are: {', '.join(names)})")
        self._columns = [column for column in columns if column in names]
        metadata = self._file.metadata
        sizes = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self._numbers: np.ndarray | None = None
        self._order = np.empty(0, dtype=np.int64)
        self._loaded: tuple[int, int, pa.Table] | None = None

    def read(self) -> pa.Table:
        """All rows."""
        with _readable(self.path):
            return self._file.read(columns=self._columns, use_threads=False)

    def episode(self, number: int) -> pa.Table:
        """The rows of the episode of a number in `episode_index`, in the order of the file.

        Raises:
            DataError: The table cannot be read, or `episode_index` holds something else than integers.
        """
        if self._numbers is None:
            with _readable(self.path):
                column = self._file.read(columns=["episode_index"], use_threads=False)["episode_index"]
            if not pa.types.is_integer(column.type) or column.null_count:
                raise DataError(
                    f"{self.path}: 'episode_index' must hold an integer in each row, found {column.type} and "
                    f"{column.null_count} empty rows; copy the file again, or write that column as int64"
                )
            numbers = column.to_numpy()
            self._order = np.argsort(numbers, kind="stable")
            self._numbers = numbers[self._order]
        first, last = np.searchsorted(self._numbers, [number, number + 1])
        rows = self._order[first:last]
        if not len(rows):
            return self._groups(0, 0)
        start = int(np.searchsorted(self._starts, rows.min(), side="right")) - 1
        stop = int(np.searchsorted(self._starts, rows.max(), side="right"))
        table, rows = self._groups(start, stop), rows - self._starts[start]
        if rows[-1] - rows[0] == len(rows) - 1:
            return table.slice(int(rows[0]), len(rows))
        return table.take(rows)

    def _groups(self, start: int, stop: int) -> pa.Table:
        if self._loaded is None or self._loaded[:2] != (start, stop):
            self._loaded = None
            with _readable(self.path):
                groups = list(range(start, stop))
                table = self._file.read_row_groups(groups, columns=self._columns, use_threads=False)
                # One chunk a column: taking a slice then does not depend on how many there were.
                self._loaded = (start, stop, table.combine_chunks())
        return self._loaded[2]


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: the table cannot be read: {error}; copy it again") from error
