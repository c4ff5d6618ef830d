"""What the pages need beyond Jupyter Book's settings.

The directive `chapter-map` lists every chapter with its minutes, as measured in `results/chapters.json`, and what it
builds on, as its card says; `from-chapter` shows the output of a chapter's cell on another page.
Scripts for live widgets and live kernels, fetched from elsewhere and used by no page, are left out, and the
Colab badge comes from the book itself: pages ask for nothing outside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.config import Config
from sphinx.transforms import SphinxTransform
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
MEASURED = ROOT / "results" / "chapters.json"
# `name:[width,height,[other names],"code","path"],` or with two paths, in fontawesome.js
ICON = re.compile(
    r'(?:"([a-z0-9-]+)"|\b([a-z0-9]+)):\[\d+,\d+,(\[[^\]]*\]),"[0-9a-f]+",'
    r'(?:"[^"]*"|\["[^"]*","[^"]*"\])\],?'
)

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
        r"\*\*You should know:\*\*(.*?)\n- \*\*", "".join(cells[1]["source"]), re.DOTALL
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
            "".join(output["data"]["text/html"])
            for cell in cells_of(notebook)
            if tag in cell["metadata"].get("tags", [])
            for output in cell["outputs"]
            if "text/html" in output.get("data", {})
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


def used_scripts(scripts: list, doctree: nodes.document | None) -> list:
    """Leave out the scripts that a page does not use.

    These are the live-kernel scripts, which Jupyter Book adds twice: an error in the console; and MathJax on a page
    without mathematics, which gets it for its children in the table of contents.
    """
    mathematics = doctree and [
        *doctree.findall(nodes.math),
        *doctree.findall(nodes.math_block),
    ]
    unused = ["thebe"] if mathematics else ["thebe", "mathjax"]
    return [
        script
        for script in scripts
        if not any(name in str(script.filename).lower() for name in unused)
        and "THEBE" not in str(script.attributes.get("body"))
    ]


def mend_page(
    app: Sphinx,
    pagename: str,
    templatename: str,
    context: dict,
    doctree: nodes.document | None,
) -> None:
    """Keep the scripts that a page uses, and call citations no list: docutils names none of them an item of it."""
    context["script_files"] = used_scripts(context["script_files"], doctree)
    listed = '<div role="list" class="citation-list">'
    context["body"] = context.get("body", "").replace(
        listed, '<div class="citation-list">'
    )


def few_icons(app: Sphinx, exception: Exception | None) -> None:
    """Keep of the theme's two thousand icons, a third of a page's weight, those that some page or script names."""
    static = Path(app.outdir) / "_static"
    script = static / "scripts" / "fontawesome.js"
    if exception or not script.exists():
        return
    places = [*Path(app.outdir).glob("**/*.html"), *static.glob("**/*.js")]
    text = " ".join(
        place.read_text(encoding="utf-8") for place in places if place != script
    )
    wanted = set(re.findall(r"\bfa-([a-z0-9-]+)", text))

    def keep(icon: re.Match) -> str:
        names = {icon[1] or icon[2], *json.loads(icon[3])}
        return icon[0] if names & wanted else ""

    whole = script.read_text(encoding="utf-8")
    script.write_text(ICON.sub(keep, whole), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive and what makes pages self-contained."""
    app.add_directive("chapter-map", ChapterMap)
    app.add_directive("from-chapter", FromChapter)
    app.add_transform(OwnBadge)
    app.add_js_file(None, body=LIGHT_OR_DARK)
    app.connect("config-inited", own_scripts_alone)
    app.connect("html-page-context", mend_page)
    app.connect("build-finished", few_icons)
    return {"parallel_read_safe": True}
