"""The first line of every chapter: seed, device, profile and figure style."""

from __future__ import annotations

import os
import platform
import warnings
from dataclasses import dataclass
from typing import TypeVar

import torch

from capsnb._version import __version__

T = TypeVar("T")


@dataclass(frozen=True)
class Chapter:
    """Where a chapter runs, and how long it may take.

    Attributes:
        device: "cuda" or "cpu".
        profile: "quick", minutes on two CPU cores, or "full", the published sizes.
    """

    device: str
    profile: str

    def pick(self, *, quick: T, full: T) -> T:
        """The value for this profile.

        >>> Chapter("cpu", "quick").pick(quick=3, full=30)
        3
        """
        return full if self.profile == "full" else quick


def start_chapter(seed: int = 0) -> Chapter:
    """Seed PyTorch, choose the device, read the profile from `CAPSNB_PROFILE`, set the figure style, and say so.

    Args:
        seed: of the random numbers in the chapter.

    Returns:
        The choices, for `chapter.pick(quick=..., full=...)`.

    Raises:
        ValueError: `CAPSNB_PROFILE` is neither "quick" nor "full".
    """
    from capsnb import plots

    profile = os.environ.get("CAPSNB_PROFILE", "quick")
    if profile not in ("quick", "full"):
        raise ValueError(f"CAPSNB_PROFILE is {profile!r}; set it to 'quick' or 'full'")
    warnings.filterwarnings("ignore", message="IProgress not found")  # the bars here need no widgets
    torch.manual_seed(seed)
    plots.use_style()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    hardware = torch.cuda.get_device_name() if device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    print(
        f"capsnb {__version__} · Python {platform.python_version()} · torch {torch.__version__} · {hardware} · "
        f"{profile} profile · seed {seed}"
    )
    return Chapter(device, profile)
