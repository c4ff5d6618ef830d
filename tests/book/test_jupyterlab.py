"""Notebooks in a real JupyterLab: as a reader first opens them, untrusted and without a kernel, and after "Run all".

What a notebook must show there is a list of functions, CHECKS. Each notebook is opened once for all of them.
"""

import base64
import io
import re
from typing import Any, NamedTuple

import chapters
import lab as jupyterlab
import nbformat
import pytest
from markdown_it import MarkdownIt
from matplotlib.figure import Figure
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbformat import NotebookNode

NOTEBOOKS = [*chapters.chapters(), *chapters.pages()]
# Quick to run, and together they have figures, a live one, tables, and exercises.
RUN = chapters.chapters(["02", "10", "13"])
SMALLEST = (100, 60)  # pixels of a figure
FIGURE = {"image/png", "image/svg+xml", "text/html"}  # the last is what no figure should be
MARK = re.compile(r"(?<!`)\{[a-z][\w:+-]*\}`|:::|\{(?:admonition|cite|term)|^\([\w-]+\)=$", re.MULTILINE)
SUMMARY = re.compile(r"<summary>(.*?)</summary>")
MARKDOWN = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, double_inline=True)

# What the page shows, cell by cell. Of the text, code stands in backticks as in the source, and formulas are left out.
LOOK = """() => {
  const inert = document.implementation.createHTMLDocument();
  const visible = (part) => Boolean(part?.checkVisibility());
  const words = (part) => {
    const copy = inert.importNode(part, true);  // in the page itself, a copy would load its pictures once more
    copy.querySelectorAll("mjx-container, .jp-InternalAnchorLink").forEach((one) => one.remove());
    copy.querySelectorAll("code").forEach((one) => one.replaceWith(
      (one.className.match(/language-({.*})/)?.[1] ?? "") + "`" + one.textContent + "`"));
    return copy.textContent;
  };
  const output = ({ node }) => {  // the prompt beside it left out
    const shown = node.querySelector(".jp-OutputArea-output");
    const image = shown.querySelector("img");
    const { width, height } = image?.getBoundingClientRect() ?? {};
    const drawn = image && image.naturalWidth > 0 ? [width, height] : null;
    return { drawn, kind: image?.src.match(/^data:([^;,]+)/)?.[1], text: words(shown).trim() };
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
def folder(tmp_path_factory):
    """The folder that JupyterLab shows."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.fixture(scope="session")
def lab(chromium, site, folder):
    """A tab with a JupyterLab, whose kernels find the wheel."""
    variables = {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1", "CAPSNB_PROFILE": "quick"}
    with jupyterlab.server(folder, **variables) as address, jupyterlab.Lab(chromium, address) as lab:
        yield lab


def look_at(lab):
    return lab.page.evaluate(LOOK)


def looked_at(lab, notebook, trusted=False):
    return Shown(notebook, look_at(lab), trusted, [*lab.errors], [*lab.outside])


@pytest.fixture(scope="module", params=NOTEBOOKS, ids=lambda path: path.stem)
def untrusted(request, lab, folder):
    lab.show(jupyterlab.copied(request.param, folder))
    return looked_at(lab, chapters.read(request.param))


def figures_are_pictures_with_captions(shown):
    """Nothing but a PNG is shown untrusted, the SVG where it is trusted; then the description, in words."""
    kind, figures = "image/svg+xml" if shown.trusted else "image/png", 0
    for cell, look in shown.cells("code"):
        for k, output in enumerate(cell.outputs):
            if not FIGURE & set(output.get("data", {})):
                continue
            figures += 1
            picture, *after = look["outputs"][k:]
            assert picture["drawn"], f"no picture: {picture['text'][:80]!r}"
            assert picture["kind"] == kind
            assert all(side > least for side, least in zip(picture["drawn"], SMALLEST, strict=True))
            words = " ".join(output.data["text/plain"].split())
            assert after and " ".join(after[0]["text"].split()) == words
            assert len(words.split()) > 3
    assert figures or not any("plots." in cell.source for cell, _ in shown.cells("code"))


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


def drawn(kind):
    fig = Figure(figsize=(3, 2))
    fig.subplots().plot([1, 3, 2])
    fig.savefig(file := io.BytesIO(), format=kind)
    return file.getvalue()


def notebook_that_passes():
    """A notebook with one of each thing that the checks look at."""
    prose = (
        """# A *line*

> **Predict first**
>
> Where does $x$ lead, and `{x}` with `$y$`?

$$
y = \\frac{x}{2}
$$

<details>
<summary>Half of $x$</summary>

**Yes.** Here $y$ is half of $x$. """
        + "And so on. " * 30
        + "\n\n</details>"
    )
    words = "A line that rises from 1 to 3 and falls to 2."
    data = {
        "image/svg+xml": drawn("svg").decode(),
        "image/png": base64.b64encode(drawn("png")).decode(),
        "text/plain": words,
        "application/vnd.capsnb.live+json": {"name": "none", "given": {}},
    }
    figure = nbformat.v4.new_output(
        "display_data", data, metadata={"image/png": {"width": 300, "height": 200}}
    )
    caption = nbformat.v4.new_output("display_data", {"text/markdown": f"*{words}*"})
    folded = {"tags": ["hide-input"], "jupyter": {"source_hidden": True}}
    cells = [
        nbformat.v4.new_markdown_cell(prose),
        nbformat.v4.new_code_cell("# @title Draw\n1", metadata=folded, outputs=[figure, caption]),
        nbformat.v4.new_code_cell("1 / 0"),
    ]
    return chapters.tidy(nbformat.v4.new_notebook(cells=cells))


def use_html(notebook):
    data = notebook.cells[1].outputs[0].data
    data["text/html"] = data.pop("image/svg+xml")
    del data["image/png"]


def leave_out_the_figure(notebook):
    notebook.cells[1].source += "\nplots.describe(fig, words)"
    notebook.cells[1].outputs.clear()


def leave_out_the_caption(notebook):
    del notebook.cells[1].outputs[1]


def add(text):
    def to_the_prose(notebook):
        notebook.cells[0].source += f"\n\n{text}\n"

    return to_the_prose


def show_the_code(notebook):
    del notebook.cells[1].metadata["jupyter"]


def fold_another_cell(notebook):
    notebook.cells[2].metadata["jupyter"] = {"source_hidden": True}


@pytest.mark.parametrize(
    ("check", "spoil"),
    [
        (figures_are_pictures_with_captions, use_html),
        (figures_are_pictures_with_captions, leave_out_the_figure),
        (figures_are_pictures_with_captions, leave_out_the_caption),
        (no_myst_mark_is_left, add("As {cite:t}`sabour2017` writes.")),
        (no_myst_mark_is_left, add("A {term}`squash`.")),
        (no_myst_mark_is_left, add(":::{admonition} Predict first\nWhat?\n:::")),
        (no_myst_mark_is_left, add("```{note}\nWhat?\n```")),
        (no_myst_mark_is_left, add("(a-place)=\n## A heading")),
        (details_are_closed, add("<details open>\n<summary>A</summary>\n\nB\n\n</details>")),
        (tagged_cells_are_folded, show_the_code),
        (tagged_cells_are_folded, fold_another_cell),
        (mathematics_is_set, add("A $\\foo$.")),
        (mathematics_is_set, add("A $x^{a}^{b}$.")),
        (mathematics_is_set, add("A \\\\(x\\\\).")),
        (nothing_failed_or_was_fetched, add("![A](https://example.org/a.png)")),
        (nothing_failed_or_was_fetched, add("![A](missing.png)")),
    ],
)
def test_each_check_can_fail(check, spoil, lab, folder, tmp_path):
    spoil(spoilt := notebook_that_passes())
    for notebook, right in [(notebook_that_passes(), True), (spoilt, False)]:
        nbformat.write(notebook, tmp_path / "notebook.ipynb")
        lab.show(jupyterlab.copied(tmp_path / "notebook.ipynb", folder))
        shown = looked_at(lab, notebook)
        if right:
            check(shown)
        else:
            with pytest.raises(AssertionError):
                check(shown)


def test_a_cell_that_fails_is_reported(lab, folder, tmp_path):
    nbformat.write(notebook_that_passes(), tmp_path / "notebook.ipynb")
    lab.show(jupyterlab.copied(tmp_path / "notebook.ipynb", folder), kernel=True)
    with pytest.raises(RuntimeError, match="ZeroDivisionError: division by zero"):
        lab.run()


COUNTING = """\
import time
from capsnb import progress_bar
for number in progress_bar(range(20), "counting", delay=0):
    time.sleep(0.2)
print("done")"""


def test_a_bar_counts_in_plain_text_and_goes(lab, folder, tmp_path):
    """Text on stderr would stand there as an error does, on a red ground."""
    cells = [nbformat.v4.new_code_cell(COUNTING)]
    nbformat.write(chapters.tidy(nbformat.v4.new_notebook(cells=cells)), tmp_path / "notebook.ipynb")
    lab.show(jupyterlab.copied(tmp_path / "notebook.ipynb", folder), kernel=True)
    lab.page.evaluate(jupyterlab.RUN, "notebook:run-cell")
    bar = lab.page.locator(".jp-OutputArea-output", has_text=re.compile(r"counting: +\d+%\|.*\| \d+/20"))
    bar.wait_for(timeout=60_000)
    assert bar.get_attribute("data-mime-type") == "text/plain"
    assert bar.evaluate("place => getComputedStyle(place).backgroundColor") == "rgba(0, 0, 0, 0)"
    lab.page.wait_for_function(jupyterlab.FINISHED, timeout=60_000)
    texts = [output["text"] for output in look_at(lab)["cells"][0]["outputs"]]
    assert [text for text in texts if text] == ["done"]
    assert not lab.errors


def as_committed(notebook):
    """A notebook without what may differ from run to run: of most outputs only their kinds are left."""
    cells = chapters.tidy(notebook).cells
    for cell in cells:
        if cell.cell_type == "code" and "nbval-check-output" not in cell.metadata.get("tags", []):
            cell.outputs = [
                (one.output_type, one.get("name"), [*one.get("data", {})]) for one in cell.outputs
            ]
    return cells


@pytest.mark.chapter
@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_run_all_leaves_what_is_committed(path, lab, folder):
    name = jupyterlab.copied(path, folder)
    lab.show(name, kernel=True)
    lab.run()
    lab.save()
    saved = chapters.read(folder / name)
    shown = looked_at(lab, saved, trusted=True)
    for check in CHECKS:
        check(shown)
    for now, committed in zip(as_committed(saved), as_committed(chapters.read(path)), strict=True):
        assert now == committed


def test_an_exercise_is_solved_by_typing(lab, folder):
    """With the solution that is folded below the exercise, in the cell that holds it."""
    path = chapters.chapters(["13"])[0]
    cells = chapters.read(path).cells
    place = next(k for k, cell in enumerate(cells) if cell.source.endswith("ch13.slope(least_squares)"))
    folded = cells[place + 1].source.partition("<summary>Solution</summary>")[2]
    solution = next(token.content for token in MARKDOWN.parse(folded) if token.type == "code_block")
    check = cells[place].source.splitlines()[-1]

    lab.show(jupyterlab.copied(path, folder), kernel=True)
    lab.page.evaluate("(place) => { panel.content.activeCellIndex = place; }", place)
    lab.run("notebook:run-all-above")
    lab.run("notebook:run-cell")
    assert look_at(lab)["cells"][place]["outputs"][0]["text"].startswith("… Not answered yet.")
    typed = f"{solution}\n\n{check}"
    lab.type_into(place, typed)
    lab.run("notebook:run-cell")
    assert lab.page.evaluate("panel.content.activeCell.model.sharedModel.source") == typed
    assert look_at(lab)["cells"][place]["outputs"][0]["text"].startswith("✓ Right.")
