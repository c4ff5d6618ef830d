"""What the pages need beyond Jupyter Book's settings.

The directive `chapter-map` lists every chapter with its minutes, as measured in `results/chapters.json`, and what it
builds on, as its card says; `from-chapter` shows the output of a chapter's cell on another page.
The Colab badge comes from the book itself, and scripts for
widgets, which no page has, are not asked for: pages ask for nothing outside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from capsnb_notebooks import figure
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "results" / "chapters.json"
# The theme chooses light or dark when the page is whole; until then it has two logos and no borders: all would move.
LIGHT_OR_DARK = """(({ dataset }) => {
  if (dataset.theme === "auto") dataset.theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
})(document.documentElement);"""


def cells_of(notebook: Path) -> list[dict]:
    """Return the cells of a notebook."""
    return json.loads(notebook.read_text(encoding="utf-8"))["cells"]


def title_and_promise(cells: list[dict]) -> tuple[str, str]:
    """Return a chapter's title and the sentence that follows its badges."""
    paragraphs = [
        " ".join(part.split())
        for part in re.split(r"\n\s*\n", "".join(cells[0]["source"]))
    ]
    return paragraphs[0].lstrip("# "), paragraphs[-1]


def builds_on(cells: list[dict]) -> list[int]:
    """Return the numbers of the chapters that a chapter's card asks for."""
    known = re.search(
        r"\*\*You should know:\*\*(.*?)\n> - \*\*",
        "".join(cells[1]["source"]),
        re.DOTALL,
    )
    numbers = set()
    for said in re.findall(
        r"chapters? ((?:\d+(?: to |, | and )?)+)", known[1] if known else ""
    ):
        for first, last in re.findall(r"(\d+)(?: to (\d+))?", said):
            numbers |= set(range(int(first), int(last or first) + 1))
    return sorted(numbers)


def entry(notebook: Path, measured: dict) -> list[str]:
    """Return a chapter's lines on the map: its name, what one does in it, what it costs and what it needs."""
    cells = cells_of(notebook)
    title, promise = title_and_promise(cells)
    figures = measured.get(notebook.stem, {})
    cpu = figures.get("cpu")
    facts = [f"{figures['read_minutes']} min to read"] if figures else []
    facts.append(f"{cpu['seconds']:.0f} s to run" if cpu else "not run yet")
    if needed := builds_on(cells):
        facts.append(f"after {', '.join(map(str, needed))}")
    return [
        f"- **{int(notebook.name[:2])}** [{title}]({notebook.name})",
        "",
        f"  {promise}",
        "",
        f"  *{' · '.join(facts)}*",
        "",
    ]


class ChapterMap(SphinxDirective):
    """Draw the map of the chapters, part by part, from `_toc.yml`, the notebooks and the measured figures."""

    def run(self) -> list[nodes.Node]:
        """Return the map's nodes."""
        toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
        measured = json.loads(MEASURED.read_text(encoding="utf-8"))["chapters"]
        self.env.note_dependency(str(MEASURED))
        self.env.note_dependency(str(ROOT / "_toc.yml"))
        lines = []
        for part in toc["parts"]:
            paths = [ROOT / "book" / f"{one['file']}.ipynb" for one in part["chapters"]]
            chapters = [path for path in paths if re.match(r"\d\d_", path.name)]
            if chapters:
                lines += [f"**{part['caption']}**", ""]
            for chapter in chapters:
                self.env.note_dependency(str(chapter))
                lines += entry(chapter, measured)
        holder = nodes.container(classes=["chapter-map"])
        self.state.nested_parse(
            StringList(lines, str(MEASURED)), self.content_offset, holder
        )
        return [holder]


class FromChapter(SphinxDirective):
    """Show what a chapter's cell shows: `{from-chapter} 04_a_first_capsnet live-knobs` is the cell with that tag."""

    required_arguments = 2

    def run(self) -> list[nodes.Node]:
        """Return the HTML of the cell's outputs as it was committed."""
        name, tag = self.arguments
        notebook = ROOT / "book" / f"{name}.ipynb"
        self.env.note_dependency(str(notebook))
        shown = [
            html
            for cell in cells_of(notebook)
            if tag in cell["metadata"].get("tags", [])
            for output in cell["outputs"]
            if (html := figure(output.get("data", {})))
        ]
        if not shown:
            raise self.error(
                f"no cell of {notebook.name} with the tag {tag!r} shows anything"
            )
        return [nodes.raw("", "\n".join(shown), format="html")]


class OwnBadge(SphinxTransform):
    """Show the book's copy of the Colab badge; a lone notebook keeps the address that works everywhere."""

    default_priority = 200

    def apply(self, **kwargs: object) -> None:
        """Point the badges of a page to the local file."""
        for image in self.document.findall(nodes.image):
            if image["uri"].startswith("https://colab.research.google.com/assets/"):
                image["uri"] = "/_static/open-in-colab.svg"


def own_scripts_alone(app: Sphinx, config: Config) -> None:
    """Ask for no script from a CDN, since no page has widgets; load the book's own in order, live.js first."""
    config["nb_ipywidgets_js"] = {}
    config["html_js_files"] = sorted(config["html_js_files"])


def mend_citations(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Call citations no list: docutils names none of them an item of it."""
    listed = '<div role="list" class="citation-list">'
    body = context.get("body", "")
    context["body"] = body.replace(listed, '<div class="citation-list">')


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and what makes pages self-contained."""
    app.add_directive("chapter-map", ChapterMap)
    app.add_directive("from-chapter", FromChapter)
    app.add_transform(OwnBadge)
    app.add_js_file(None, body=LIGHT_OR_DARK)
    app.connect("config-inited", own_scripts_alone)
    app.connect("html-page-context", mend_citations)
    return {"parallel_read_safe": True}
