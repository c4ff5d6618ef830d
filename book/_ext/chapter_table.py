"""The directive `chapter-table`: every chapter with its minutes, as measured in `results/chapters.json`."""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "results" / "chapters.json"


def title_and_promise(notebook: Path) -> tuple[str, str]:
    """Return a chapter's title and the sentence that follows its badges."""
    cell = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", "".join(cell["source"]))]
    return paragraphs[0].lstrip("# "), paragraphs[-1]


def row(notebook: Path, measured: dict) -> str:
    """Return one line of the table."""
    title, promise = title_and_promise(notebook)
    figures = measured.get(notebook.stem, {})
    read = f"{figures['read_minutes']} min" if figures else "not measured yet"
    cpu = figures.get("cpu")
    run = f"{cpu['seconds']:.0f} s on {cpu['hardware']['cpus']} CPU cores" if cpu else "not run yet"
    return f"| [{title}]({notebook.name}) | {promise} | {read} | {run} |"


class ChapterTable(SphinxDirective):
    """Write the table of chapters from the notebooks and the measured figures."""

    def run(self) -> list[nodes.Node]:
        """Return the table's nodes."""
        chapters = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
        for path in [MEASURED, *chapters]:
            self.env.note_dependency(str(path))
        measured = json.loads(MEASURED.read_text(encoding="utf-8"))["chapters"] if MEASURED.exists() else {}
        lines = ["| Chapter | After it you can say | Read | Run |", "|---|---|---|---|"]
        lines += [row(chapter, measured) for chapter in chapters]
        holder = nodes.Element()
        self.state.nested_parse(StringList(lines, str(MEASURED)), self.content_offset, holder)
        return holder.children


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("chapter-table", ChapterTable)
    return {"parallel_read_safe": True}
