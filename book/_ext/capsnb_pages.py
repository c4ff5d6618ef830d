"""What the pages need beyond Jupyter Book's settings.

The directive `chapter-table` lists every chapter with its minutes, as measured in `results/chapters.json`.
Scripts for live widgets and live kernels, fetched from elsewhere and used by no page, are left out, and the
Colab badge comes from the book itself: pages ask for nothing outside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "results" / "chapters.json"


def title_and_promise(notebook: Path) -> tuple[str, str]:
    """Return a chapter's title and the sentence that follows its badges."""
    cell = json.loads(notebook.read_text(encoding="utf-8"))["cells"][0]
    paragraphs = [
        " ".join(part.split()) for part in re.split(r"\n\s*\n", "".join(cell["source"]))
    ]
    return paragraphs[0].lstrip("# "), paragraphs[-1]


def row(notebook: Path, measured: dict) -> str:
    """Return one line of the table."""
    title, promise = title_and_promise(notebook)
    figures = measured.get(notebook.stem, {})
    read = f"{figures['read_minutes']} min" if figures else "not measured yet"
    cpu = figures.get("cpu")
    run = (
        f"{cpu['seconds']:.0f} s on {cpu['hardware']['cores']} CPU cores"
        if cpu
        else "not run yet"
    )
    return f"| [{title}]({notebook.name}) | {promise} | {read} | {run} |"


class ChapterTable(SphinxDirective):
    """Write the table of chapters from the notebooks and the measured figures."""

    def run(self) -> list[nodes.Node]:
        """Return the table's nodes."""
        chapters = sorted((ROOT / "book").glob("[0-9][0-9]_*.ipynb"))
        for path in [MEASURED, *chapters]:
            self.env.note_dependency(str(path))
        measured = (
            json.loads(MEASURED.read_text(encoding="utf-8"))["chapters"]
            if MEASURED.exists()
            else {}
        )
        lines = ["| Chapter | What it does | Read | Run |", "|---|---|---|---|"]
        lines += [row(chapter, measured) for chapter in chapters]
        holder = nodes.Element()
        self.state.nested_parse(
            StringList(lines, str(MEASURED)), self.content_offset, holder
        )
        return holder.children


class OwnBadge(SphinxTransform):
    """Show the book's copy of the Colab badge; a lone notebook keeps the address that works everywhere."""

    default_priority = 200

    def apply(self, **kwargs: object) -> None:
        """Point the badges of a page to the local file."""
        for image in self.document.findall(nodes.image):
            if image["uri"].startswith("https://colab.research.google.com/assets/"):
                image["uri"] = "/_static/open-in-colab.svg"


def own_scripts_alone(app: Sphinx, config: Config) -> None:
    """Ask for no script from a CDN, since no page has widgets; load the book's own in order: live.js, then live_*.js."""
    config["nb_ipywidgets_js"] = {}
    config["html_js_files"] = sorted(config["html_js_files"])


def no_thebe_scripts(
    app: Sphinx, pagename: str, templatename: str, context: dict, doctree: object
) -> None:
    """Take out the live-kernel scripts, which Jupyter Book adds twice: an error in the console."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in str(script.filename)
        and "THEBE" not in str(script.attributes.get("body"))
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and what makes pages self-contained."""
    app.add_directive("chapter-table", ChapterTable)
    app.add_transform(OwnBadge)
    app.connect("config-inited", own_scripts_alone)
    app.connect("html-page-context", no_thebe_scripts)
    return {"parallel_read_safe": True}
