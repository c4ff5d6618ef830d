"""What a plain notebook becomes in the book.

Notebooks hold what every program shows: figures as SVG and PNG with a caption, citations as links, boxes as block
quotes, answers in `<details>`. In the book figures stand in the page with the page's own ink, citations lead to the
bibliography, and boxes and answers are the theme's.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path

from pybtex.database import Person, parse_file
from pybtex.richtext import Text
from sphinx.application import Sphinx

from capsnb.plots.embed import LIVE, caption, in_page

BIBLIOGRAPHY = Path(__file__).resolve().parents[1] / "references.bib"
DETAILS = re.compile(
    r"^<details>\n<summary>([^\n]+)</summary>\n\n(.*?)\n\n</details>$",
    re.DOTALL | re.MULTILINE,
)
BOX = re.compile(r"^> \*\*([^*\n]+)\*\*\n>\n((?:>[^\n]*(?:\n|\Z))+)", re.MULTILINE)
KIND_OF_BOX = {"Predict first": "tip"}  # others are the theme's plain boxes
TITLE = re.compile(r"\A# @title [^\n]*\n")  # what Colab shows of a folded cell

LINK = r"\[([^][]+?)\]\(([^()\s]+)\)"
TEXTUAL = re.compile(LINK)
PARENTHETICAL = re.compile(rf"\({LINK}(?:; {LINK})*\)")


@functools.cache
def citations(bibliography: Path = BIBLIOGRAPHY) -> dict[str, tuple[str, str, str]]:
    """Return key, authors and year of each entry of the bibliography, by its address: its DOI, or else its URL."""
    found = {}
    for key, entry in parse_file(bibliography).entries.items():
        doi = entry.fields.get("doi")
        address = f"https://doi.org/{doi}" if doi else entry.fields.get("url")
        found[address] = (key, authors(entry.persons["author"]), entry.fields["year"])
    return found


def authors(persons: list[Person]) -> str:
    """Return how a citation names authors: one, two, or the first of several."""
    names = [
        str(Text(" ").join([*one.rich_prelast_names, *one.rich_last_names]))
        for one in persons
    ]
    return f"{names[0]} et al." if len(names) > 2 else " and ".join(names)


def cited(markdown: str) -> str:
    """Make citations of links to entries of the bibliography: "[Hinton et al. (2011)](...)" and "([...](...))"."""
    known = citations()

    def together(found: re.Match) -> str:
        keys = []
        for said, address in TEXTUAL.findall(found[0]):
            key, names, year = known.get(address, ("", "", ""))
            if said != f"{names}, {year}":
                return found[0]
            keys.append(key)
        return f"{{cite}}`{','.join(keys)}`"

    def in_a_sentence(found: re.Match) -> str:
        key, names, year = known.get(found[2], ("", "", ""))
        return f"{{cite:t}}`{key}`" if found[1] == f"{names} ({year})" else found[0]

    return TEXTUAL.sub(in_a_sentence, PARENTHETICAL.sub(together, markdown))


def boxed(markdown: str) -> str:
    """Make the theme's boxes of block quotes whose first line is bold and stands alone."""

    def box(found: re.Match) -> str:
        kind = KIND_OF_BOX.get(found[1])
        inner = re.sub(r"^> ?", "", found[2], flags=re.MULTILINE).rstrip()
        option = f":class: {kind}\n" if kind else ""
        return f":::{{admonition}} {found[1]}\n{option}{inner}\n:::\n"

    return BOX.sub(box, markdown)


def folded(markdown: str) -> str:
    """Make the theme's dropdowns of `<details>`."""

    def dropdown(
        found: re.Match,
    ) -> str:  # its title may hold HTML for code and emphasis
        title = re.sub(r"</?em>", "*", re.sub(r"</?code>", "`", found[1]))
        return f"::::::{{dropdown}} {title}\n{found[2]}\n::::::"

    return DETAILS.sub(dropdown, markdown)


def figure(data: dict) -> str | None:
    """Return the HTML of an output that is a figure, still or live; None of another."""
    if not (svg := data.get("image/svg+xml")):
        return None
    page, live = in_page("".join(svg)), data.get(LIVE)
    if live is None:
        return page
    given = escape(json.dumps(live["given"], separators=(",", ":")))
    return f'<div class="live" data-live="{live["name"]}" data-given="{given}">{page}</div>'


def in_the_page(outputs: Iterable[dict]) -> list[dict]:
    """Put figures into the page; their descriptions are their labels there, so captions are left out."""
    shown, described = [], None
    for output in outputs:
        data = output.get("data", {})
        if described and "".join(data.get("text/markdown", "")) == caption(described):
            described = None
        elif html := figure(data):
            described = "".join(data["text/plain"])
            shown.append({**output, "data": {"text/html": html}, "metadata": {}})
        else:
            shown.append(output)
    return shown


def translate(app: Sphinx, docname: str, source: list[str]) -> None:
    """Translate a notebook, or the citations of another page, that is about to be read."""
    app.env.note_dependency(str(BIBLIOGRAPHY))
    if not str(app.env.doc2path(docname)).endswith(".ipynb"):
        source[0] = cited(source[0])
        return
    notebook = json.loads(source[0])
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            cell["source"] = folded(boxed(cited(text)))
        else:
            cell["source"] = TITLE.sub("", text)
            cell["outputs"] = in_the_page(cell["outputs"])
    source[0] = json.dumps(notebook)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the translation."""
    app.connect("source-read", translate)
    return {"parallel_read_safe": True}
