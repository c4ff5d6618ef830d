"""What happened in a training run, epoch by epoch.

Taught in chapter 4, *A first CapsNet*.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from capsnb.files import from_json, reading, to_json, write_atomically
from capsnb.training.config import TrainConfig


@dataclass(frozen=True)
class Epoch:
    """One line of a training run.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss, margin + weight * reconstruction.
        margin: mean margin loss while training.
        reconstruction: mean sum of squared pixel errors of an image while training.
        train_accuracy: share of augmented training images that were classified right during the epoch, 0 to 1.
        test_accuracy: share of test images classified right after the epoch, 0 to 1.
        learning_rate: of the last step.
        seconds: wall time of training, without the test.
        peak_memory: bytes; the allocator's peak on a GPU, the process's largest resident size elsewhere (0 on
            Windows, where it is not known); of several processes, the largest.
        skipped_steps: steps that fp16's loss scaling left out, because a gradient was not finite.
    """

    epoch: int
    loss: float
    margin: float
    reconstruction: float
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    seconds: float
    peak_memory: int
    skipped_steps: int = 0


@dataclass
class History:
    """What happened in a training run: plain data, saved as JSON.

    Attributes:
        model: name of the model's class.
        data: name of the data set.
        parameters: number of trained numbers.
        device: where it ran, "cpu" or the name of the GPU.
        config: the run's configuration.
        records: one `Epoch` for each finished epoch.
    """

    model: str
    data: str
    parameters: int
    device: str
    config: TrainConfig
    records: list[Epoch] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        """One column, epoch by epoch: `history["test_accuracy"]`."""
        if column not in (names := [f.name for f in fields(Epoch)]):
            raise KeyError(f"no column {column!r}; there are {', '.join(names)}")
        return [getattr(record, column) for record in self.records]

    @property
    def seconds(self) -> float:
        """Wall time of all training epochs."""
        return sum(self["seconds"])

    def to_json(self) -> str:
        """Return the history as JSON text."""
        return to_json(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Return the history that `to_json` wrote."""
        return cls.from_dict(from_json(text, "the history"))

    @classmethod
    def from_dict(cls, saved: dict[str, Any]) -> History:
        """Return the history of which `saved` holds the attributes, as JSON has them."""
        raw = dict(saved)
        records = [Epoch(**record) for record in raw.pop("records")]
        return cls(**{**raw, "config": TrainConfig(**raw["config"]), "records": records})

    def save(self, path: str | Path) -> Path:
        """Write the history as JSON, whole or not at all."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a history that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a saved history.
        """
        with reading(path, "a history that capsnb saved", "save it again"):
            return cls.from_dict(from_json(Path(path).read_bytes(), path))
