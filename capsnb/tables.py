"""Tables in Markdown that are also readable as plain text. Shown by `bench`, `memory`, `experiments` and `compare`."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(rows: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Write rows as a Markdown table.

    Args:
        rows: the head, and the lines below it; all of one length.
        left: how many columns, from the first, are aligned left; numbers stand right.

    Returns:
        A line for each row, and the rule below the head.

    >>> print(markdown([["network", "MB"], ["CapsNet", "54"]]))
    | network |  MB |
    | ------- | --: |
    | CapsNet |  54 |
    """
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(3, *map(len, cells)) for cells in zip(*escaped, strict=True)]
    rules = ["-" * w if k < left else "-" * (w - 1) + ":" for k, w in enumerate(widths)]
    padded = [
        [c.ljust(w) if k < left else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        for row in [escaped[0], rules, *escaped[1:]]
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)
