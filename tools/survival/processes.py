"""Children of this process that run one command of capsnb each, with what they printed, used and returned.

A child is forked after PyTorch was imported, and before it did anything: so a command takes a tenth of a second, and a
random moment is one of the command's work, not of an import. That needs `fork`: Linux or macOS.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
import tqdm

from capsnb import cli, distributed

for name in ("sklearn.metrics", "PIL.Image", "torch.optim.adam"):  # what a command would import by itself
    importlib.import_module(name)
distributed.import_accelerate()


class Outcome(NamedTuple):
    """What came of one try.

    Attributes:
        name: what was tried.
        survived: whether it ended as it should.
        detail: how it ended.
        memory: largest resident size of the process that it tried, in bytes; 0 where it was not measured.
    """

    name: str
    survived: bool
    detail: str
    memory: int = 0


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        code: the exit status; negative, the signal that ended it; None, it was still running at the limit.
        out: what it printed.
        err: what it printed as errors.
        seconds: how long it ran.
        memory: its largest resident size in bytes.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    memory: int

    @property
    def refusal(self) -> str:
        """The one line that refused the input; "" if it was no refusal. libtiff prints lines of its own."""
        text = re.sub(
            r"\x1b\[[0-9;]*[A-Za-z]|[^\n]*\r", "", self.err
        )  # colours, and bars that were taken away
        lines = [line for line in text.splitlines() if line.strip() and not line.startswith("TIFF")]
        return lines[0] if self.code == 2 and len(lines) == 1 and "Traceback" not in self.err else ""

    @property
    def summary(self) -> str:
        """Status and last line of the errors."""
        lines = self.err.strip().splitlines()
        return f"status {self.code} after {self.seconds:.1f} s: {lines[-1] if lines else 'no message'}"


class Child:
    """A running child; `end` waits for it."""

    def __init__(
        self, work: Callable[[], object], *, file_limit: int | None = None, **variables: str
    ) -> None:
        self.started = time.monotonic()
        self.out, self.err = (tempfile.TemporaryFile("w+", encoding="utf-8", newline="") for _ in range(2))  # noqa: SIM115 - `end` closes them
        self.pid = os.fork()
        if self.pid == 0:
            self._run(work, file_limit, variables)

    def _run(self, work: Callable[[], object], file_limit: int | None, variables: dict[str, str]) -> None:
        code = 70  # an error of this program
        try:
            os.setsid()  # what it starts is killed with it
            torch.set_num_threads(1)
            tqdm.tqdm._instances.clear()  # the parent's bar is not above the child's
            os.environ.update(variables)
            for stream, number in ((self.out, 1), (self.err, 2)):
                os.dup2(stream.fileno(), number)
            if file_limit is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, resource.RLIM_INFINITY))
            work()
            code = 0
        except SystemExit as done:
            code = done.code if isinstance(done.code, int) else 1
        except BaseException:
            traceback.print_exc()
            code = 1
        finally:
            with contextlib.suppress(OSError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def kill(self) -> None:
        """Kill it, and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def end(self, limit: float = 60.0) -> Ended:
        """Wait until it ends, or kill it when it has run for `limit` seconds."""
        pid = 0
        while not pid:
            pid, status, usage = os.wait4(self.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - self.started > limit:
                self.kill()
                _, _, usage = os.wait4(self.pid, 0)
                return self._ended(None, usage)
            time.sleep(0.002)
        return self._ended(os.waitstatus_to_exitcode(status), usage)

    def _ended(self, code: int | None, usage: resource.struct_rusage) -> Ended:
        seconds = time.monotonic() - self.started
        texts = []
        for stream in (self.out, self.err):
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        unit = 1 if sys.platform == "darwin" else 1024
        return Ended(code, *texts, seconds, usage.ru_maxrss * unit)


def command(*arguments: object) -> Callable[[], None]:
    """Return what runs a command of capsnb."""

    def work() -> None:
        sys.argv = ["capsnb", *map(str, arguments)]
        cli.main()

    return work


def run(*arguments: object, limit: float = 60.0, **options: object) -> Ended:
    """Run a command of capsnb to its end."""
    return Child(command(*arguments), **options).end(limit)  # type: ignore[arg-type]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="capsnb-survive-") as name:
        yield Path(name)
