"""Notebooks in a real JupyterLab: as a reader first opens them, untrusted and without a kernel, and after "Run all".

What a notebook must show there is a list of functions, CHECKS. Each notebook is opened once for all of them.
"""

import re
from typing import Any, NamedTuple

import chapters
import lab as jupyterlab
import nbformat
import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode

NOTEBOOKS = [*chapters.chapters(), *chapters.pages()]
# Quick to run, and together they have figures, a live one, tables, and exercises.
RUN = chapters.chapters(["02", "10", "13"])
SMALLEST = (100, 60)  # pixels of a figure
FIGURE = {"image/png", "image/svg+xml", "text/html"}  # the last is what no figure should be
MARK = re.compile(r"\{[a-z][\w:+-]*\}(?=`)|:::|\{(?:admonition|cite|term)|^\([\w-]+\)=$|```", re.MULTILINE)
SUMMARY = re.compile(r"<summary>(.*?)</summary>")
MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, double_inline=True)

# What the page shows, cell by cell. Of the text, code stands in backticks as in the source, and formulas are left out.
LOOK = """() => {
  const visible = (part) => Boolean(part?.checkVisibility());
  const words = (part) => {
    const copy = part.cloneNode(true);
    copy.querySelectorAll("mjx-container, .jp-InternalAnchorLink").forEach((one) => one.remove());
    copy.querySelectorAll("code").forEach((one) => one.replaceWith("`" + one.textContent + "`"));
    return copy.textContent;
  };
  const output = ({ node }) => {
    const image = node.querySelector("img");
    const { width, height } = image?.getBoundingClientRect() ?? {};
    const drawn = image && image.naturalWidth > 0 ? [width, height] : null;
    return { drawn, kind: image?.src.match(/^data:([^;,]+)/)?.[1], text: words(node).trim() };
  };
  const place = panel.content.node;
  return {
    cells: panel.content.widgets.map((cell) => ({
      folded: !visible(cell.node.querySelector(".jp-Cell-inputArea .jp-InputArea-editor")),
      prose: [...cell.node.querySelectorAll(".jp-RenderedMarkdown")].map(words).join("\\n"),
      outputs: cell.outputArea?.widgets.map(output) ?? [],
    })),
    details: [...place.querySelectorAll("details")].map((part) => part.open),
    formulas: place.querySelectorAll("mjx-container").length,
    wrong: [...place.querySelectorAll("mjx-merror, mjx-container [style*='color: red']")].map((part) =>
      part.closest("mjx-container").textContent),
  };
}"""


class Shown(NamedTuple):
    """A notebook's file, and what JupyterLab shows of it."""

    notebook: NotebookNode
    look: dict[str, Any]
    trusted: bool
    errors: list[str]
    outside: list[str]

    def cells(self, kind):
        return [
            (cell, look)
            for cell, look in zip(self.notebook.cells, self.look["cells"], strict=True)
            if cell.cell_type == kind
        ]


@pytest.fixture(scope="session")
def server(site, tmp_path_factory):
    """A JupyterLab over an empty folder, whose kernels find the wheel; and the folder."""
    folder = tmp_path_factory.mktemp("notebooks")
    with jupyterlab.server(
        folder, PYTHONPATH=str(site), PYTHONDONTWRITEBYTECODE="1", CAPSNB_PROFILE="quick"
    ) as address:
        yield address, folder


@pytest.fixture(scope="session")
def lab(chromium, server):
    with jupyterlab.Lab(chromium, server[0]) as lab:
        yield lab


def looked_at(lab, notebook, trusted=False):
    look = lab.page.evaluate(LOOK)
    return Shown(notebook, look, trusted, [*lab.errors], [*lab.outside])


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def untrusted(request, lab, tmp_path_factory, server):
    path = request.param
    lab.show(jupyterlab.copied(path, server[1]))
    return looked_at(lab, chapters.read(path))


def figures_are_pictures_with_captions(shown):
    """Nothing but a PNG is shown untrusted, the SVG where it is trusted; then the description, in words."""
    kind = "image/svg+xml" if shown.trusted else "image/png"
    for cell, look in shown.cells("code"):
        for k, output in enumerate(cell.outputs):
            if not FIGURE & set(output.get("data", {})):
                continue
            picture, *after = look["outputs"][k:]
            assert picture["drawn"], f"no picture: {picture['text'][:80]!r}"
            assert picture["kind"] == kind
            assert all(side > least for side, least in zip(picture["drawn"], SMALLEST, strict=True))
            words = " ".join(output.data["text/plain"].split())
            assert after and " ".join(after[0]["text"].split()) == words
            assert len(words.split()) > 3


def no_myst_mark_is_left(shown):
    text = "\n".join(look["prose"] for look in shown.look["cells"])
    assert len(text) > 300
    assert MARK.findall(text) == []


def details_are_closed(shown):
    written = sum(cell.source.count("<details>") for cell, _ in shown.cells("markdown"))
    assert shown.look["details"] == [False] * written


def tagged_cells_are_folded(shown):
    tagged = ["hide-input" in cell.metadata.get("tags", []) for cell, _ in shown.cells("code")]
    assert [look["folded"] for _, look in shown.cells("code")] == tagged


def formulas(markdown):
    """Return how many formulas a piece of Markdown has, outside of code; a summary is HTML that may hold some."""
    blocks = MARKDOWN.parse(markdown)
    for block in [block for block in blocks if block.type == "html_block"]:
        blocks += MARKDOWN.parseInline(" ".join(SUMMARY.findall(block.content)))
    tokens = [token for block in blocks for token in (block, *(block.children or []))]
    return sum(token.type.startswith("math_") for token in tokens)


def mathematics_is_set(shown):
    markdown = [cell.source for cell, _ in shown.cells("markdown")]
    for cell, _ in shown.cells("code"):
        markdown += [output.get("data", {}).get("text/markdown", "") for output in cell.outputs]
    assert shown.look["formulas"] == sum(map(formulas, markdown))
    assert shown.look["wrong"] == []


def nothing_failed_or_was_fetched(shown):
    assert not shown.errors
    assert not shown.outside, "the notebook asked for something outside"


CHECKS = [
    figures_are_pictures_with_captions,
    no_myst_mark_is_left,
    details_are_closed,
    tagged_cells_are_folded,
    mathematics_is_set,
    nothing_failed_or_was_fetched,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_untrusted(untrusted, check):
    check(untrusted)
