"""The reference: pages made from docstrings, from the package's exports and from its command line."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_type_hints

from capsnb_pages import ROOT
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.ext.autodoc import FunctionDocumenter
from sphinx.util.docutils import SphinxDirective

KINDS = {int: "INTEGER", float: "NUMBER", str: "TEXT", Path: "PATH"}
OWN_FIELDS = {"Returns:": ":returns:", "Shape:": ":shape:"}


def source_of(module: str) -> str:
    """Return the path of a module's file in the repository."""
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def prepare_docstring(
    app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Write the sections that are sentences as fields: Napoleon takes what precedes a colon for a type.

    What a class is made with and keeps is told once, with its types. A module's docstring also says where its code is.
    """
    lines[:] = [OWN_FIELDS.get(line, line) for line in lines]
    if what == "class" and "Args:" not in lines:
        lines[:] = ["Args:" if line == "Attributes:" else line for line in lines]
    if what == "module":
        path, theme = source_of(name), app.config.html_theme_options
        place = f"{theme['repository_url']}/blob/{theme['repository_branch']}/{path}"
        lines += ["", f"Source: `{path} <{place}>`__", ""]


def no_aliases(
    app: Sphinx, what: str, name: str, thing: object, skip: bool, options: object
) -> bool | None:
    """Leave out the fields of a named tuple, which its docstring describes: Python's own words for them say nothing."""
    return True if type(thing).__name__ == "_tuplegetter" else None


class OneSignature(FunctionDocumenter):
    """Show a function with its own signature: overloads say for type checkers what its docstring says for readers."""

    def format_signature(self, **kwargs: object) -> str:
        """Return the signature, once."""
        if self.analyzer:
            self.analyzer.overloads = {}
        return super().format_signature(**kwargs)


class Generated(SphinxDirective):
    """A directive that writes Markdown."""

    def markdown(self, text: str) -> list[nodes.Node]:
        """Return the nodes of a text."""
        holder = nodes.Element()
        lines = StringList(text.splitlines(), self.env.docname)
        self.state.nested_parse(lines, self.content_offset, holder)
        return holder.children


class Exports(Generated):
    """List what `import capsnb` gives."""

    def run(self) -> list[nodes.Node]:
        """Return the list; every name leads to its entry."""
        package = importlib.import_module("capsnb")
        self.env.note_dependency(package.__file__)
        return self.markdown(" · ".join(f"`capsnb.{n}`" for n in package.__all__))


class Rooms(Generated):
    """Tell in a line each what the modules on a page of the reference are."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        """Return a table."""
        page = ROOT / "book" / f"{self.arguments[0]}.md"
        self.env.note_dependency(str(page))
        lines = ["| Module | What it is |", "|---|---|"]
        for module in re.findall(r"automodule:: (\S+)", page.read_text("utf-8")):
            source = ROOT / source_of(module)
            self.env.note_dependency(str(source))
            said = ast.get_docstring(ast.parse(source.read_text("utf-8"))) or ""
            first = " ".join(said.split("\n\n")[0].split()).replace("|", r"\|")
            lines.append(f"| `{module}` | {first} |")
        return self.markdown("\n".join(lines))


def commands(command: object, *path: str) -> Iterator[tuple[tuple[str, ...], object]]:
    """Walk the commands of a command line, groups before what they hold."""
    yield path, command
    for name, below in getattr(command, "commands", {}).items():
        yield from commands(below, *path, name)


def command_line() -> list[tuple[tuple[str, ...], object]]:
    """Return every command with the words that call it."""
    import typer

    from capsnb.cli import app

    return list(commands(typer.main.get_command(app), "capsnb"))


def parameters(command: object) -> Iterator[str]:
    """Describe the arguments and options of a command in a line each."""
    function = inspect.unwrap(command.callback) if command.callback else (lambda: None)
    kinds = {name: kind_of(hint) for name, hint in get_type_hints(function).items()}
    for option in command.params:
        if option.name not in kinds:  # --help and the like
            continue
        if not option.opts[0].startswith("-"):
            named = option.name.upper()
        elif option.is_flag:
            named = " / ".join([*option.opts, *option.secondary_opts])
        else:
            named = f"{', '.join(option.opts)} {kinds[option.name]}"
        told = [option.help] if option.help else []
        if option.default is not None and option.default is not False:
            value = option.opts[0] if option.default is True else option.default
            told.append(f"default `{value}`")
        yield f"- `{named}`" + f": {'; '.join(told)}" * bool(told)


def kind_of(hint: object) -> str:
    """Name what an option takes; it may be left out (None), or repeated (a list)."""
    parts = (part for part in (*get_args(hint), hint) if part is not type(None))
    kind = next(parts, None)
    kind = next(iter(get_args(kind)), kind)
    return KINDS.get(kind, "")


class CommandLine(Generated):
    """Describe every command of `capsnb`, as its own help does."""

    def run(self) -> list[nodes.Node]:
        """Return a section for each command."""
        for source in (ROOT / "capsnb" / "cli").glob("*.py"):
            self.env.note_dependency(str(source))
        _, *below = command_line()
        return [self.section(" ".join(path), command) for path, command in below]

    def section(self, words: str, command: object) -> nodes.section:
        """Return what one command does, takes and assumes."""
        section = nodes.section(ids=[words.replace(" ", "-")], names=[words])
        section += nodes.title("", "", nodes.literal("", words))
        self.state.document.note_explicit_target(section)
        section += self.markdown("\n".join([command.help, "", *parameters(command)]))
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directives and what prepares docstrings."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(OneSignature, override=True)
    app.add_directive("exports", Exports)
    app.add_directive("rooms", Rooms)
    app.add_directive("command-line", CommandLine)
    app.connect("autodoc-process-docstring", prepare_docstring, priority=400)
    app.connect("autodoc-skip-member", no_aliases)
    return {"parallel_read_safe": True}
