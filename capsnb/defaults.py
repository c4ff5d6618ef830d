"""Settings of PyTorch and NumPy that hold for a whole process, as they are where nobody has changed them.

Training (chapter 4), evaluation and figures compute with these defaults; afterwards the caller's settings hold again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch


@contextmanager
def default_settings(precision: str = "fp32", *, deterministic: bool = False) -> Iterator[None]:
    """Use the default settings in a `with` block, or in a function that this decorates; afterwards the caller's.

    Gradients are recorded, inference mode and autocast are off, new tensors are float32 and on the CPU, float32
    products have float32's precision, and NumPy warns of invalid numbers and prints as it does by default. What
    changes results by rounding at most stays as the caller has it: the number of threads, and whether cuDNN and oneDNN
    are used. So do anomaly detection and hooks.

    Args:
        precision: "tf32" rounds float32 products and convolutions to TF32 on a GPU; all else is PyTorch's default.
        deterministic: let cuDNN take convolutions that give the same bits each time, and not choose by a clock.

    >>> with torch.no_grad(), default_settings():
    ...     torch.is_grad_enabled()
    True
    """
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))  # which also enables gradients
        for kind in ("cpu", "cuda", "mps") if torch.backends.mps.is_available() else ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(np.printoptions(legacy=False))  # older ones also change str(number)
        settings = _float32_settings(tf32=precision == "tf32")
        stack.enter_context(_changed(settings + (_same_bits_settings() if deterministic else [])))
        yield


class _Setting(NamedTuple):
    """A setting of PyTorch.

    Attributes:
        read: returns its value.
        write: sets its value.
        wanted: the values that may stay; the first replaces any other.
    """

    read: Callable[[], Any]
    write: Callable[[Any], None]
    wanted: tuple[Any, ...]


@contextmanager
def _changed(settings: list[_Setting]) -> Iterator[None]:
    """Give settings a value that is wanted, and put their own back."""
    before = [_read(setting) for setting in settings]
    try:
        for setting in settings:
            if _read(setting) not in (None, *setting.wanted):
                setting.write(setting.wanted[0])
        yield
    finally:
        for setting, value in zip(settings, before, strict=True):
            if value is not None and _read(setting) != value:
                setting.write(value)


def _same_bits_settings() -> list[_Setting]:
    """Of cuDNN: convolutions without atomic additions, chosen by a rule and not by a clock."""
    wanted = {"deterministic": True, "benchmark": False}
    cudnn: Any = torch.backends.cudnn
    return [
        _Setting(partial(getattr, cudnn, name), partial(setattr, cudnn, name), (value,))
        for name, value in wanted.items()
    ]


def _float32_settings(*, tf32: bool) -> list[_Setting]:
    """PyTorch's older interface and, from PyTorch 2.9 on, its newer one; each changes the other."""
    libraries: Any = torch.backends
    cudnn, full = libraries.cudnn, ("ieee", "none")
    older = [
        _Setting(
            torch.get_float32_matmul_precision,
            torch.set_float32_matmul_precision,
            ("high" if tf32 else "highest",),
        ),
        _Setting(lambda: cudnn.allow_tf32, partial(setattr, cudnn, "allow_tf32"), (True,)),
    ]
    if not hasattr(libraries, "fp32_precision"):
        return older
    products = ("tf32",) if tf32 else full
    newer = (
        (libraries.cuda.matmul, products),
        (cudnn.conv, ("tf32",)),
        (cudnn.rnn, ("tf32",)),
        (libraries.mkldnn.matmul, products),
        (libraries.mkldnn.conv, full),
    )
    return older + [
        _Setting(partial(getattr, operation, "fp32_precision"), partial(_set_operation, operation), wanted)
        for operation, wanted in newer
    ]


def _read(setting: _Setting) -> Any:
    """The value of a setting; None if PyTorch refuses to read the older interface, because the newer one was used."""
    with suppress(RuntimeError):
        return setting.read()
    return None


def _set_operation(operation: Any, value: str) -> None:
    """Set the precision of an operation; it inherits that of its library where this suffices."""
    operation.fp32_precision = "none"
    if operation.fp32_precision != value:
        operation.fp32_precision = value
