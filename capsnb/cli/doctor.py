"""The command that prints what a report of trouble needs."""

from __future__ import annotations

import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import typer

from capsnb.cli.options import Root
from capsnb.data import data_folder, downloaded, load_data
from capsnb.kernels import native
from capsnb.layers import RoutingCapsules
from capsnb.profiling import hardware, versions
from capsnb.reversible import MomentumCapsules
from capsnb.routing import routing_by_agreement


def doctor(root: Root = None) -> None:
    """Print versions, hardware, kernels, data sets and free disk space, and test routing and reversibility."""
    failed = False
    for name, find in _questions(root):
        try:
            answer = find()
        except Exception as error:  # whatever is broken is what the report is for
            answer, failed = f"FAILED: {type(error).__name__}: {str(error).partition(chr(10))[0]}", True
        typer.echo(f"{name:15} {answer}")
    if failed:
        raise typer.Exit(1)


def _questions(root: str | None) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield what is asked, and a function that answers or raises."""
    yield "system", platform.platform
    yield "versions", lambda: ", ".join(f"{name} {version}" for name, version in versions().items())
    yield "hardware", lambda: ", ".join(f"{name}: {value or 'none'}" for name, value in hardware().items())
    yield "GPU", _gpu
    yield "kernels", _kernels
    yield "data sets", lambda: _data_sets(root)
    yield "free disk", lambda: f"{shutil.disk_usage(Path.cwd()).free / 1e9:.1f} GB here"
    yield "routing", _routing
    yield "reversibility", _reversibility


def _gpu() -> str:
    if not torch.cuda.is_available():
        built = f"for CUDA {torch.version.cuda}" if torch.version.cuda else "without CUDA"
        return f"PyTorch sees none; it was built {built}"
    free, total = torch.cuda.mem_get_info()
    return f"{torch.cuda.get_device_name()}, {free / 1e9:.1f} of {total / 1e9:.1f} GB free, CUDA {torch.version.cuda}"


def _kernels() -> str:
    folder = native.cache_folder()
    if folder:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass  # it can be written to
    unavailable = native.unavailable(torch.device("cpu"), torch.Size((8, 4, 8, 4)), torch.float32)
    how = "compiled C++" if unavailable is None else f"plain PyTorch ({unavailable.partition(', which')[0]})"
    return f"{how}; cache {folder or 'none, since there is no home folder'}"


def _data_sets(root: str | None) -> str:
    """Read the images of the package; of other data sets the files are looked for, since reading them takes long."""
    return f"{', '.join([load_data().name, *downloaded(root)])} (looked in {data_folder(root)})"


def _routing() -> str:
    """Compare the layer that `auto` chooses with the definition."""
    layer = RoutingCapsules(48, 8, 10, 16)
    u = torch.rand(32, 48, 8)  # so many that `auto` takes a kernel
    expected = routing_by_agreement(layer.votes(u), layer.iterations)
    error = (layer(u) - expected).abs().max().item()
    if not error < 1e-5:
        raise ArithmeticError(f"the layer is {error:.1e} away from the definition")
    return f"agrees with the definition to {error:.0e}"


def _reversibility() -> str:
    """Compare gradients of recomputed layers with those of stored ones."""
    stack = MomentumCapsules(RoutingCapsules(8, 4, 8, 4) for _ in range(8))
    x = torch.rand(2, 8, 4)
    found, expected = (
        torch.autograd.grad(run(x).sum(), list(stack.parameters())) for run in (stack, stack.forward_plain)
    )
    error = max(((a - b).norm() / b.norm()).item() for a, b in zip(found, expected, strict=True))
    if not error < 1e-4:
        raise ArithmeticError(f"gradients are {error:.1e} away from those with stored tensors")
    return f"gradients agree with stored tensors to {error:.0e}"
