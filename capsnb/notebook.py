"""The set-up of every chapter: seed, device, profile and figure style."""

from __future__ import annotations

import json
import os
import platform
import sys
import warnings
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from capsnb import files
from capsnb._version import __version__
from capsnb.values import LARGEST_SEED, whole_number

T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """The device and the profile of a chapter.

    Attributes:
        device: "cuda" or "cpu".
        profile: "quick" (small experiments, at most minutes on two CPU cores) or "full" (the published sizes).
    """

    device: str
    profile: str

    def pick(self, *, quick: T, full: T) -> T:
        """Return the value for this profile.

        Args:
            quick: the value for the quick profile.
            full: the value for the full profile.

        >>> Chapter("cpu", "quick").pick(quick=3, full=30)
        3
        """
        return full if self.profile == "full" else quick


def start_chapter(number: int | None = None, *, seed: int = 0) -> Chapter:
    """Seed PyTorch, choose the device, read `CAPSNB_PROFILE` and set the figure style; say in a line what was found.

    Args:
        number: of the chapter, 1 to 18, whose measured time is said.
        seed: the seed of PyTorch's random numbers.

    Returns:
        The device and the profile; `chapter.pick(quick=..., full=...)` chooses a value.

    Raises:
        ValueError: `CAPSNB_PROFILE` is neither "quick" nor "full", or there is no chapter of that number.
    """
    from capsnb import plots

    profile = os.environ.get("CAPSNB_PROFILE", "quick")
    if profile not in ("quick", "full"):
        raise ValueError(f"CAPSNB_PROFILE is {profile!r}; set it to 'quick' or 'full'")
    # A chapter that imports Accelerate itself would show what `distributed.import_accelerate` hides.
    number = None if number is None else whole_number("number", number)
    seed = whole_number("seed", seed, at_least=0, at_most=LARGEST_SEED)
    warnings.filterwarnings("ignore", message="IProgress not found")
    torch.manual_seed(seed)
    plots.use_style()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    found = f"GPU: {torch.cuda.get_device_name()}" if device == "cuda" else "No GPU"
    expected = f", {_expected_time(number, device)}" if number and profile == "quick" else ""
    print(
        f"{found} · {torch.get_num_threads()} CPU threads · {profile} profile{expected} · seed {seed} · "
        f"capsnb {__version__}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    if device == "cpu" and "google.colab" in sys.modules:
        print("Colab lends GPUs: choose Runtime > Change runtime type > T4 GPU, then run all cells again.")
    return Chapter(device, profile)


def _expected_time(number: int, device: str) -> str:
    """Say what a chapter took in the quick profile where it was measured, on a GPU if there is one here."""
    measured = json.loads((files.results() / "chapters.json").read_text(encoding="utf-8"))["chapters"]
    names = [name for name in measured if name.startswith(f"{number:02d}_")]
    if not names:
        raise ValueError(f"there is no chapter {number}; choose from 1 to {len(measured)}")
    run = (device == "cuda" and measured[names[0]]["gpu"]) or measured[names[0]]["cpu"]
    return time_of(run)


def time_of(run: dict[str, Any] | None) -> str:
    """Say what a measured run of a chapter took, and where.

    >>> time_of({"seconds": 23.4, "hardware": {"gpu": None, "cores": 2}}), time_of(None)
    ('about 23 s on 2 CPU cores', 'not timed yet')
    """
    if not run:
        return "not timed yet"
    where = run["hardware"]["gpu"] or f"{run['hardware']['cores']} CPU cores"
    return f"{duration(run['seconds'])} on {where}"


def duration(seconds: float) -> str:
    """Return a duration as a reader would say it.

    >>> duration(23.4), duration(200)
    ('about 23 s', 'about 3 minutes')
    """
    return f"about {seconds:.0f} s" if seconds < 120 else f"about {seconds / 60:.0f} minutes"
