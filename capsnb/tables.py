"""Markdown tables that are also readable as plain text; used by `bench`, `memory`, `experiments` and `compare`."""

from __future__ import annotations

import re
from collections.abc import Sequence

_SIGNS = re.compile(r"[<`$*~\[\\]|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])")


def escape(text: str) -> str:
    r"""Write a name that others have given as Markdown that shows it as it is: no HTML, formula, emphasis or link.

    An underscore inside a word stays: it means nothing there. `markdown` takes care of a vertical bar.

    >>> print(escape("<b>a_b</b> $x$"))
    \<b>a_b\</b> \$x\$
    """
    return " ".join(_SIGNS.sub(r"\\\g<0>", text).split())


def markdown(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Format rows as a Markdown table.

    Args:
        rows: the header and the rows below it, all of the same length; of Markdown, so `escape` what others have named.
        left: number of leading columns that are left-aligned; all others are right-aligned, for numbers.

    Returns:
        One line for each row, and a separator line below the header.

    >>> print(markdown([["network", "MB"], ["CapsNet", "54"]]))
    | network |  MB |
    | ------- | --: |
    | CapsNet |  54 |
    """
    escaped = [[" ".join(cell.replace("|", "\\|").splitlines()) for cell in row] for row in rows]
    widths = [max(3, *map(len, cells)) for cells in zip(*escaped, strict=True)]
    rules = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    padded = [
        [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in [escaped[0], rules, *escaped[1:]]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)
