"""Command-line options that are generated: from the fields of a dataclass, and from the networks' constructors.

A type, a default and a description are written down once, in the dataclass or in the constructor and its docstring.
"""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import typer

from capsnb.backbones import CapsuleHead
from capsnb.data import DATASETS, NAMES
from capsnb.models import NETWORKS, constructors
from capsnb.values import finite_number, one_of, whole_numbers

DATA_SETS: dict[str, Any] = {"help": NAMES, "autocompletion": lambda: [*DATASETS]}
DataName = Annotated[str, typer.Option(**DATA_SETS)]
Root = Annotated[
    str | None,
    typer.Option(metavar="PATH", help="folder of the data sets; default $CAPSNB_DATA or ./data"),
]
Download = Annotated[bool, typer.Option(help="fetch the data set if its files are not there")]
Model = Annotated[str, typer.Option(help=", ".join(NETWORKS))]

# The data decide the first three; the networks themselves the others.
_NOT_OPTIONS = {"image_shape", "classes", "in_shape", "kernel_size", "stride"}


def descriptions(documented: type | Callable[..., Any]) -> dict[str, str]:
    """What a class's docstring says of each argument, under `Args:`.

    >>> from capsnb import TrainConfig
    >>> descriptions(TrainConfig)["learning_rate"]
    'the highest learning rate, > 0.'
    """
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("\nArgs:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", section, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def option(name: str, hint: Any, default: Any, help: str) -> inspect.Parameter:
    """A parameter that typer makes an option of; for a `Literal` it takes text, and its owner refuses wrong words."""
    kinds, optional = _kinds(hint)
    choices = get_args(kinds[0]) if get_origin(kinds[0]) is Literal else ()
    kind: Any = str if choices else kinds[0]
    info = typer.Option(help=help.rstrip("."), metavar="|".join(choices) or None)
    annotation = Annotated[kind | None, info] if optional else Annotated[kind, info]
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=annotation
    )


def field_options(dataclass: type) -> list[inspect.Parameter]:
    """An option for each field of a dataclass."""
    hints, helps = get_type_hints(dataclass), descriptions(dataclass)
    return [
        option(field.name, hints[field.name], field.default, helps.get(field.name, ""))
        for field in fields(dataclass)
    ]


def number_options(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The whole numbers that a function takes as options, with its descriptions."""
    hints, helps = get_type_hints(function), descriptions(function)
    parameters = inspect.signature(function).parameters.items()
    return [option(name, int, p.default, helps.get(name, "")) for name, p in parameters if hints[name] is int]


def with_options(
    argument: str, options: list[inspect.Parameter], build: Callable[..., Any]
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take options in place of an argument, which is built from their values.

    Args:
        argument: the command's argument.
        options: from `field_options` or `network_options`.
        build: called with the options' values by name.

    Returns:
        A decorator.
    """
    names = [parameter.name for parameter in options]

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        def generated(**values: Any) -> None:
            built = build(**{name: values.pop(name) for name in names})
            command(**values, **{argument: built})

        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != argument]
        generated.__name__, generated.__doc__ = command.__name__, command.__doc__
        generated.__signature__ = signature.replace(parameters=[*own, *options])  # type: ignore[attr-defined]
        generated.__annotations__ = {p.name: p.annotation for p in [*own, *options]}
        return generated

    return decorate


class Size(NamedTuple):
    """An argument of a network's constructor, and the class whose constructor has it."""

    hint: Any
    default: Any
    help: str
    owner: type


@functools.cache
def sizes_of(network: str) -> dict[str, Size]:
    """What a network's constructor takes besides the data's shape, if it is a number, a word or a switch.

    Arguments that it passes on, to `CapsNet` or to its capsule head, are included.

    >>> sizes_of("mocapsnet")["blocks"].default, sizes_of("resnetcapsnet")["blocks"].default
    (1, 3)
    """
    sizes: dict[str, Size] = {}
    for owner in constructors(NETWORKS[network]):
        hints, helps = get_type_hints(owner.__init__), descriptions(owner)  # type: ignore[misc]
        for name, parameter in inspect.signature(owner).parameters.items():
            if name in hints and name not in _NOT_OPTIONS and _is_simple(hints[name]):
                sizes.setdefault(name, Size(hints[name], parameter.default, helps.get(name, ""), owner))
    return sizes


def network_options() -> list[inspect.Parameter]:
    """An option for each size that some network has; if it is not given, the network's own default holds."""
    by_name: dict[str, dict[str, Size]] = {}
    for network in NETWORKS:
        for name, size in sizes_of(network).items():
            by_name.setdefault(name, {})[network] = size
    return [
        option(name, next(iter(sizes.values())).hint | None, None, _describe(sizes))
        for name, sizes in by_name.items()
    ]


def _describe(sizes: dict[str, Size]) -> str:
    """What a size is, once for networks of which it is the same, and the defaults."""
    by_help: dict[str, dict[str, list[str]]] = {}
    first = next(iter(sizes.values())).owner
    for network, size in sizes.items():
        shared = by_help and issubclass(size.owner, (first, CapsuleHead))
        defaults = by_help.setdefault(next(iter(by_help)) if shared else size.help.rstrip("."), {})
        default = "chosen by the layers" if size.default is None else str(size.default)
        defaults.setdefault(default, []).append(network)
    texts = []
    for help, defaults in by_help.items():
        listed = [f"{default} ({', '.join(networks)})" for default, networks in defaults.items()]
        same = list(defaults.values()) == [list(NETWORKS)]
        texts.append(f"{help}; default {next(iter(defaults)) if same else ', '.join(listed)}")
    return "; or ".join(texts)


def complete_sizes(network: str, options: dict[str, Any]) -> dict[str, Any]:
    """All sizes of a network that have an option: those given, and its own defaults.

    Args:
        network: a key of `models.NETWORKS`.
        options: values of `network_options`; None was not given.

    Raises:
        ValueError: an unknown network, or a size that it does not have; names the networks that have it.
    """
    one_of("model", network, NETWORKS)
    own, given = sizes_of(network), {name: v for name, v in options.items() if v is not None}
    for name in given:
        if name not in own:
            others = ", ".join(other for other in NETWORKS if name in sizes_of(other))
            flag = name.replace("_", "-")
            raise ValueError(f"{network} has no {name}; leave --{flag} out, or give --model one of: {others}")
    # A linear head takes none of a capsule head's arguments.
    linear = given.get("head", "capsules") != "capsules"
    defaults = {n: size.default for n, size in own.items() if not (linear and size.owner is CapsuleHead)}
    return defaults | given


def _kinds(hint: Any) -> tuple[list[Any], bool]:
    """What a value may be besides None, and whether it may be None."""
    if type(None) not in get_args(hint):
        return [hint], False
    return [kind for kind in get_args(hint) if kind is not type(None)], True


def _is_simple(hint: Any) -> bool:
    return all(kind in (int, float, bool, str) or get_origin(kind) is Literal for kind in _kinds(hint)[0])


def shape(image: str) -> tuple[int, int, int]:
    """Read the shape of an image.

    >>> shape("3x32x32")
    (3, 32, 32)
    """
    sides = image.lower().split("x")
    if len(sides) != 3 or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise ValueError(f"an image is channels x height x width, such as 3x32x32, got {image!r}")
    return whole_numbers("image", map(int, sides))


def seconds(budget: str) -> float:
    """Read a time with its unit.

    >>> seconds("90s"), seconds("8m"), seconds("1.5h")
    (90.0, 480.0, 5400.0)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return finite_number("budget", float(budget[:-1]), at_least=0) * units[budget[-1]]
    except (KeyError, ValueError, IndexError):
        raise ValueError(f"budget is a time such as 90s, 8m or 2h, got {budget!r}") from None


def names(option: str, listed: str | None) -> list[str]:
    """Read the names that commas separate; none where the option was not given.

    >>> names("only", "eager, auto"), names("only", None)
    (['eager', 'auto'], [])
    """
    found = [] if listed is None else [name.strip() for name in listed.split(",")]
    if not all(found):
        raise ValueError(f"{option} must be names separated by commas, got {listed!r}")
    return found
