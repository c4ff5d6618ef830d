"""Numbers from Python, NumPy and PyTorch alike, turned into Python's own where they come in.

Used by every constructor and configuration: what is written into a file later must be a plain number, and what is no
such number, or outside its range, is refused before work begins.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any, get_args, get_type_hints

import numpy as np
import torch

LARGEST = 2**31 - 1  # of a size: libraries and kernels count with 32 bits
LARGEST_SEED = 2**32 - 1  # NumPy's


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


def whole_number(name: str, value: Any, *, at_least: int = 1, at_most: int = LARGEST) -> int:
    """Return a whole number, or say what it should have been.

    Raises:
        TypeError: it is no whole number.
        ValueError: it is too small or too large.

    >>> whole_number("epochs", np.int64(3))
    3
    """
    found: int = _typed(name, value, {int})
    if found < at_least:
        raise ValueError(f"{name} must be {at_least} or more, got {found}")
    if found > at_most:
        raise ValueError(f"{name} must be {at_most} or less, got {found}")
    return found


def one_of(name: str, value: Any, known: Iterable[str]) -> None:
    """Raise a `ValueError` that lists what is known, for a value that is not among it."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; choose one of {', '.join(known)}")


def sizes(**given: Any) -> list[int]:
    """Return whole numbers of at least one, each given with its name.

    >>> sizes(classes=np.int64(10), blocks=3.0)
    [10, 3]
    """
    return [whole_number(name, value) for name, value in given.items()]


def whole_numbers(name: str, values: Any, count: int | None = None, **limits: Any) -> tuple[Any, ...]:
    """Return whole numbers, of at least one, from a tuple, a list, an array or a tensor.

    Args:
        name: what an error calls them.
        values: the numbers.
        count: how many are expected; None for any number of them.
        limits: `at_least` and `at_most` of `whole_number`.

    Raises:
        TypeError: it is no sequence, or one of them is no whole number.
        ValueError: another count, or one of them is too small or too large.

    >>> whole_numbers("image_shape", np.array([1, 28, 28]), 3)
    (1, 28, 28)
    """
    return _each(partial(whole_number, **limits), f"{count or ''} whole numbers".strip(), name, values, count)


def finite_numbers(name: str, values: Any, count: int | None = None) -> tuple[Any, ...]:
    """Return finite numbers from a tuple, a list, an array or a tensor; arguments and errors as of `whole_numbers`.

    >>> finite_numbers("limits", torch.tensor([0, 0.5]), 2)
    (0.0, 0.5)
    """
    return _each(finite_number, f"{count or ''} numbers".strip(), name, values, count)


def finite_number(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    at_least: float = -math.inf,
    at_most: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return a finite number inside a range, or say what it should have been.

    Raises:
        TypeError: it is no number.
        ValueError: it is not finite, or outside its range.

    >>> finite_number("gamma", np.float32(0.5), above=0, at_most=1)
    0.5
    """
    found: float = _typed(name, value, {float})
    if not (above < found < below and at_least <= found <= at_most):
        low, high = max(above, at_least), min(below, at_most)
        if high < math.inf:
            ends = "[" if at_least > above else "(", "]" if at_most < below else ")"
            wanted = f"in {ends[0]}{low:g}, {high:g}{ends[1]}"
        else:
            wanted = (
                "finite" if low == -math.inf else f"above {low:g}" if above == low else f"{low:g} or more"
            )
        raise ValueError(f"{name} must be {wanted}, got {plain(value)}")
    return found


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
    if type(value) in kinds:  # the usual case, also inside a forward pass
        return value
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
        expected = " or ".join(text for kind, text in wanted.items() if kind in kinds)
        raise TypeError(f"{name} must be {expected}, got {_shown(value)}")
    return number


def _each(one: Callable[..., Any], wanted: str, name: str, values: Any, count: int | None) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable) or getattr(values, "ndim", 1) == 0:
        raise TypeError(f"{name} must be {wanted}, got {_shown(values)}")
    found = tuple(one(f"each number of {name}", value) for value in values)
    if count not in (None, len(found)):
        raise ValueError(f"{name} must be {wanted}, got {_shown(values)}")
    return found


def _shown(value: Any) -> str:
    """Return what a value is, in one line."""
    return textwrap.shorten(repr(value), 80)
