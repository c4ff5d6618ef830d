"""Checks that the installed libraries fit together, and output that any console can show."""

from __future__ import annotations

import io
import sys

import torch


def check_torchvision() -> None:
    """Import torchvision, and explain in one sentence when it was built for another torch.

    Raises:
        ImportError: torchvision was built for another torch.
    """
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        raise
    except (ImportError, RuntimeError, OSError) as error:
        from importlib.metadata import version

        raise ImportError(
            f"torch {torch.__version__} and torchvision {version('torchvision')} do not fit together ({error}); "
            "install a matching pair from one source in one command, and check it with `capsnb doctor`: "
            "pip install --force-reinstall torch torchvision"
        ) from error


def print_any_letter() -> None:
    r"""Let stdout print letters that its encoding lacks as `\u03b1`: on Windows, a file or pipe has 256 letters."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
