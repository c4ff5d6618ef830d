"""A comparison as an HTML page: the table, and its figures. Used in chapter 15."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from capsnb import plots, tables
from capsnb.experiments.comparison import (
    COMPARISON_COLUMNS,
    NOTES,
    ComparisonRow,
    caption,
    cells,
    comparison_table,
)
from capsnb.files import write_atomically

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light dark; --page: #ffffff; --ink: #222832; }
@media (prefers-color-scheme: dark) { :root { --page: #14181e; --ink: #ced6dd; } }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
.wide { overflow-x: auto; overflow-wrap: normal; }
table { border-collapse: collapse; font-size: 0.9rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid; text-align: right; vertical-align: bottom; }
th:first-child { min-width: 8rem; text-align: left; }
"""


def figures(rows: Sequence[ComparisonRow]) -> Iterator[tuple[str, Figure]]:
    """Draw the training curves of all rows, then the evaluation of each row's first seed.

    The first seed is the one with the lowest number, not the one with the best result.

    Args:
        rows: from `join_seeds`.

    Yields:
        A heading, and a figure with its text alternative.

    >>> dict(figures(join_seeds([read("runs/capsnet")])))["Training"]  # doctest: +SKIP
    """
    yield "Training", plots.curves({row.label: row.histories for row in rows})
    for row in rows:
        if not row.evaluations:
            continue
        first, which = row.evaluations[0], f"{row.label} (seed {row.results[0].run.config.seed})"
        yield f"{which}: confusion matrix", plots.confusion_matrix(first)
        if any(curve["fpr"] for curve in first.roc):
            yield f"{which}: ROC curves", plots.roc(first)
        if first.calibration:
            yield f"{which}: reliability diagram", plots.reliability(first)


def page(rows: Sequence[ComparisonRow]) -> str:
    """Write rows as one HTML page that loads nothing from outside: the table, and every figure of `figures`.

    It is light or dark as the reader's system is, and on a narrow screen the table scrolls in its place.

    Args:
        rows: from `join_seeds`.

    Returns:
        The page.

    >>> Path("comparison.html").write_text(page(join_seeds([read("runs/capsnet")])))  # doctest: +SKIP
    """
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in COMPARISON_COLUMNS)
    lines = [f"<tr>{head}</tr>"]
    for name, *values in map(cells, rows):
        lines.append(
            f'<tr><th scope="row">{escape(name)}</th>'
            + "".join(f"<td>{cell}</td>" for cell in values)
            + "</tr>"
        )
    drawn = "\n".join(f"<h2>{escape(title)}</h2>\n{plots.to_html(fig)}" for title, fig in figures(rows))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Comparison on {escape(rows[0].histories[0].data)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Comparison on {escape(caption(rows))}</h1>
<div class="wide" role="region" aria-label="Table of all networks" tabindex="0">
<table>
{chr(10).join(lines)}
</table>
</div>
<ul>{"".join(f"<li>{escape(note)}</li>" for note in NOTES)}</ul>
{drawn}
<h2>Where the rows come from</h2>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in _sources(rows))}</ul>
</body>
</html>
"""


def _sources(rows: Sequence[ComparisonRow]) -> list[str]:
    return [f"{row.label}: {', '.join(result.source for result in row.results)}" for row in rows]


def save(rows: Sequence[ComparisonRow], folder: str | os.PathLike[str]) -> list[Path]:
    """Write `comparison.md` and `comparison.html`, each whole or not at all.

    Args:
        rows: from `join_seeds`.
        folder: where to; it is made if it is missing.

    Returns:
        The two paths.

    Raises:
        OSError: the folder cannot be written.

    >>> save(join_seeds([read("runs/capsnet")]), "comparison")  # doctest: +SKIP
    [PosixPath('comparison/comparison.md'), PosixPath('comparison/comparison.html')]
    """
    notes = "\n".join(f"- {line}" for line in (*NOTES, *map(tables.escape, _sources(rows))))
    contents = {"comparison.md": f"{comparison_table(rows)}\n\n{notes}\n", "comparison.html": page(rows)}
    return [write_atomically(Path(folder) / name, content) for name, content in contents.items()]
