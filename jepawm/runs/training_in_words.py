"""What training does now, for a person and for gauges: the lines of the roles `train` and `data`."""

from jepawm.config import RunConfig
from jepawm.tracking import Record


class TrainingInWords:
    """The latest record of a training in words.

    Args:
        config: Of the run.
        loader: Where windows come from.
    """

    def __init__(self, config: RunConfig, loader: str) -> None:
        self._config, self._loader = config, loader
        self._record: Record = {}

    def see(self, record: Record) -> None:
        """Takes a record of `metrics.jsonl`."""
        self._record = record

    def train(self) -> str:
        """Workers and their speed; nothing before the first record."""
        if "train/windows_per_s" not in self._record:
            return ""
        numbers = self.numbers()
        workers = int(numbers["train_workers"])
        return f"{workers} worker{'s' if workers > 1 else ''}, {numbers['train_steps_per_s']:.1f} train steps/s"

    def data(self) -> str:
        """Frames read, and how long training waits for them; nothing before the first record."""
        if "train/windows_per_s" not in self._record:
            return ""
        numbers = self.numbers()
        return (
            f"{numbers['data_frames_per_s']:.0f} frames/s, loader {self._loader}; training waits "
            f"{100 * numbers['data_wait_fraction']:.0f} % of its time"
        )

    def numbers(self) -> dict[str, float]:
        """The latest record under the names of the gauges, as far as it is known."""
        record, config = self._record, self._config
        found = {
            "train_step": record.get("train_step"),
            "train_loss": record.get("train/loss"),
            "train_windows_per_s": record.get("train/windows_per_s"),
            "data_wait_fraction": record.get("train/data_wait_fraction"),
        }
        numbers = {name: float(value) for name, value in found.items() if value is not None}
        numbers["train_workers"] = float(record.get("scaling/num_workers", config.scaling.num_workers))
        if "train_windows_per_s" in numbers:
            numbers["train_steps_per_s"] = numbers["train_windows_per_s"] / config.train.batch_size
            numbers["data_frames_per_s"] = numbers["train_windows_per_s"] * config.data.num_frames_in_window
        return numbers
