"""Numbers from Python, NumPy and PyTorch alike, turned into Python's own where they come in.

Used by every configuration: what is written into a file later must be a plain number.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, get_args, get_type_hints

import numpy as np
import torch


def plain(value: Any) -> Any:
    """Return a NumPy number, or an array or a tensor of one number without axes, as Python's; all else as it is.

    >>> plain(np.float32(0.5)), plain(torch.tensor(3)), plain(np.bool_(True)), plain("adam")
    (0.5, 3, True, 'adam')
    """
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray | torch.Tensor) and value.ndim == 0:
        return value.item()
    return value


def whole_number(name: str, value: Any, *, at_least: int) -> int:
    """Return a whole number, or say what it should have been.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small.

    >>> whole_number("epochs", np.int64(3), at_least=1)
    3
    """
    number: int = _typed(name, value, {int})
    if number < at_least:
        raise ValueError(f"{name} must be {at_least} or more, got {number}")
    return number


def plain_fields(configuration: Any) -> None:
    """Replace the numbers of a frozen dataclass, as it is made, by Python's own of the type that each field declares.

    Raises:
        TypeError: a value of another type.
    """
    for name, hint in get_type_hints(type(configuration)).items():
        if name in {field.name for field in fields(configuration)}:
            value = getattr(configuration, name)
            object.__setattr__(configuration, name, _typed(name, value, {hint, *get_args(hint)}))


def _typed(name: str, value: Any, kinds: set[Any]) -> Any:
    number = plain(value)
    if isinstance(number, bool):
        fits = bool in kinds
    elif isinstance(number, int | float) and float in kinds:
        number, fits = float(number), True
    elif isinstance(number, int | float):
        whole = isinstance(number, int) or number.is_integer()
        number, fits = (int(number), int in kinds) if whole else (number, False)
    else:
        fits = not kinds & {int, float, bool} or (number is None and type(None) in kinds)
    if not fits:
        wanted = {int: "a whole number", float: "a number", bool: "True or False", type(None): "None"}
        raise TypeError(
            f"{name} must be {' or '.join(text for kind, text in wanted.items() if kind in kinds)}, got {value!r}"
        )
    return number
