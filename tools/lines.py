"""Count the package's lines of code, without comments, docstrings and blank lines: python tools/lines.py."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "capsnb"
CORE = (  # in the order in which one reads them
    "functional",
    "routing",
    "kernels",
    "layers",
    "recomputation",
    "reversible",
    "backbones",
    "models",
    "losses",
)
LAYOUT = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def code_lines(source: str) -> int:
    r"""Lines that hold code, also as a part of a longer expression.

    >>> code_lines("# why\n\ndef f():\n    'What it does.'\n    return (\n        1\n    )\n")
    4
    """
    docstrings: set[int] = set()
    for node in ast.walk(ast.parse(source)):
        documented = isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if documented and ast.get_docstring(node, clean=False) is not None:
            first = node.body[0]
            docstrings |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in LAYOUT:
            lines |= set(range(token.start[0], token.end[0] + 1))
    return len(lines - docstrings)


def count() -> dict[str, int]:
    """Lines of code of each room of the package, a room being a module or a folder of it."""
    rooms: dict[str, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        rooms[room] = rooms.get(room, 0) + code_lines(path.read_text(encoding="utf-8"))
    return rooms


def main() -> None:
    """Print a line for each room, the core, and the whole package."""
    rooms = count()
    for room in sorted(rooms, key=lambda name: (name not in CORE, -rooms[name])):
        print(f"{rooms[room]:7,}  {room}{'  (core)' * (room in CORE)}")
    print(f"{sum(rooms[room] for room in CORE):7,}  the core\n{sum(rooms.values()):7,}  the package")


if __name__ == "__main__":
    main()
