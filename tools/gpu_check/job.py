"""What a part is given, and the file that it writes as it goes: a part that is killed loses nothing of what it had."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path

from capsnb.bench import Bench
from capsnb.files import write_atomically
from capsnb.profiling import hardware


@dataclass
class Job:
    """A part of the check.

    Attributes:
        name: of the part.
        device: "cuda", or "cpu" for the rehearsal, which is small.
        folder: of everything that is packed at the end.
        seconds: after which the part is killed.
        figures: what was measured, by the names that `GOALS` of `tools/gpu.py` uses.
        notes: sentences beside them.
        hardware: see `capsnb.profiling.hardware`.
        started: by the clock of `time.monotonic`.
    """

    name: str
    device: str
    folder: Path
    seconds: float
    figures: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    hardware: dict[str, str | int | None] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    @property
    def rehearsed(self) -> bool:
        """Whether this is the rehearsal."""
        return self.device == "cpu"

    def left(self) -> float:
        """Seconds until the part is killed."""
        return self.started + self.seconds - time.monotonic()

    def put(self, **figures: float) -> None:
        """Keep figures."""
        self.figures |= figures
        self._write()

    def note(self, text: str) -> None:
        """Keep a sentence, and print it."""
        print(text, flush=True)
        self.notes.append(text)
        self._write()

    def save(self, measured: Bench, kind: str = "") -> Bench:
        """Write a measurement under the name that the project reads."""
        where = "" if self.rehearsed else "-cuda"
        measured.save(self.folder / "results" / f"bench-{measured.what}{kind}{where}.json")
        return measured

    def _write(self) -> None:
        self.hardware = self.hardware or hardware(self.device)
        kept = {"figures": self.figures, "notes": self.notes, "hardware": self.hardware}
        write_atomically(report_path(self.folder, self.name), json.dumps(kept, indent=1) + "\n")


def report_path(folder: Path, name: str) -> Path:
    """The file of a part."""
    return folder / "parts" / f"{name}.json"
