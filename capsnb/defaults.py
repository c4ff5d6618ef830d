"""Settings of PyTorch and NumPy that hold for a whole process, as they are where nobody has changed them.

Training, evaluation and figures compute with these defaults, and then give the caller's settings back (chapter 4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import numpy as np
import torch


@contextmanager
def default_settings(precision: str = "fp32") -> Iterator[None]:
    """Use the default settings in a `with` block, or in a function that this decorates; afterwards the caller's.

    Gradients are recorded, inference mode and autocast are off, new tensors are float32 and on the CPU, float32
    products have float32's precision, and NumPy warns of invalid numbers and prints as it does by default. What
    changes results by rounding at most stays as the caller has it: the number of threads, deterministic algorithms, and
    whether cuDNN and oneDNN are used. So do anomaly detection and hooks.

    Args:
        precision: "tf32" rounds float32 products and convolutions to TF32 on a GPU; all else is PyTorch's default.

    >>> with torch.no_grad(), default_settings():
    ...     torch.is_grad_enabled()
    True
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for kind in ("cpu", "cuda", "mps"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(np.printoptions(legacy=False))  # older ones also change str(number)
        stack.enter_context(_float32_precision(precision))
        yield


@contextmanager
def _float32_precision(precision: str) -> Iterator[None]:
    """Set the precision of float32 products and convolutions, in PyTorch's older and its newer interface.

    PyTorch refuses to read the older one where somebody has used the newer one alone; it is then at its default.
    """
    products = ("tf32",) if precision == "tf32" else ("ieee", "none")
    settings: list[tuple[Callable[[], Any], Callable[[Any], None], tuple[Any, ...]]] = [
        (
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            ("high" if precision == "tf32" else "highest",),
        ),
        (
            lambda: torch.backends.cudnn.allow_tf32,
            partial(setattr, torch.backends.cudnn, "allow_tf32"),
            (True,),
        ),
    ]
    if hasattr(torch.backends, "fp32_precision"):  # from PyTorch 2.9 on
        library: Any = torch.backends
        for operation, wanted in (
            (library.cuda.matmul, products),
            (library.cudnn.conv, ("tf32",)),
            (library.cudnn.rnn, ("tf32",)),
            (library.mkldnn.matmul, products),
            (library.mkldnn.conv, ("ieee", "none")),
        ):
            read = partial(getattr, operation, "fp32_precision")
            settings.append((read, partial(_set_operation, operation), wanted))
    before = [_read(read) for read, _, _ in settings]
    try:
        for read, write, wanted in settings:
            if _read(read) not in (None, *wanted):
                write(wanted[0])
        yield
    finally:
        for (read, write, _), value in zip(settings, before, strict=True):
            if value is not None and _read(read) != value:
                write(value)


def _read(read: Callable[[], Any]) -> Any:
    with suppress(RuntimeError):
        return read()
    return None


def _set_operation(operation: Any, value: str) -> None:
    """Set the precision of an operation, which inherits that of its library where this suffices."""
    operation.fp32_precision = "none"
    if operation.fp32_precision != value:
        operation.fp32_precision = value
