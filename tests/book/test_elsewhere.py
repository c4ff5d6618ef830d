"""Chapters where nobody installed anything: on GitHub, simulated by its documented rules, and as nbconvert's HTML.

What GitHub does with a notebook is not published. Known is:

- it has nbconvert make HTML, and then sanitises it: its pages have the classes of nbconvert's template "lab"
  (https://github.com/jupyter/nbviewer/issues/1037). So the MIME type is chosen as nbconvert chooses it. What becomes of
  an SVG has changed several times (https://github.com/jupyter/nbviewer/issues/453,
  https://github.com/xflr6/graphviz/issues/182); here the strictest case: it is dropped, and the next type shown;
- elements and attributes that GitHub leaves in Markdown are listed in html-pipeline's SanitizationFilter
  (https://github.com/gjtorikian/html-pipeline): no script, style or inline SVG, no class, id, style or event attribute;
- its Markdown is CommonMark with tables (https://github.github.com/gfm), and `$` opens a formula unless a space follows
  (https://docs.github.com/en/get-started/writing-on-github/working-with-advanced-formatting/writing-mathematical-expressions);
- of a PNG's metadata nbconvert's template reads width and height, not the description.
"""

import io
import re
from html import escape

import bleach
import chapters
import numpy as np
import pytest
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin
from nbconvert import HTMLExporter
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_notebook, new_output
from PIL import Image

each_notebook = pytest.mark.parametrize(
    "path", [*chapters.chapters(), *chapters.pages()], ids=lambda path: path.stem
)

# html-pipeline, lib/html/pipeline/sanitization_filter.rb at 0fe57764; attributes of forms and image maps left out
ELEMENTS = """
h1 h2 h3 h4 h5 h6 h7 h8 br b i strong em a pre code img tt div ins del sup sub p ol ul table thead tbody tfoot
blockquote dl dt dd kbd q samp var hr ruby rt rp li tr td th s strike summary details"""
EVERYWHERE = """
abbr align alt border cellpadding cellspacing checked clear colspan dir disabled headers height hreflang label lang name
nowrap open rel rev rows rowspan scope size span start summary tabindex target title type valign value width"""
ATTRIBUTES = {"a": ["href"], "img": ["src", "longdesc"], "blockquote": ["cite"], "*": EVERYWHERE.split()}
MIME_TYPES = [
    kind
    for kind in HTMLExporter().default_config["NbConvertBase"]["display_data_priority"]
    if kind != "image/svg+xml"
]

FENCES = re.compile(r"^(`{3,})[^\n]*\n.*?^\1`*$", re.S | re.M)
CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.S)
FORMULA = re.compile(r"\$\$.+?\$\$|\$[^$]+\$", re.S)
RAW_HTML = re.compile(r"</?[a-z][a-z0-9]*(?:\s[^<>]*)?/?>|<!--")
MARKS = re.compile(r"\*\*|\]\(|^ *(?:>|#{1,6}|:{3,}|`{3,}) ?|\{[\w:.+-]+\}|\\\$", re.M)

LOOK = """() => {
  const words = (element) => {
    const copy = element.cloneNode(true);
    copy.querySelectorAll("pre, code").forEach((code) => code.replaceWith("code"));
    return copy.textContent;
  };
  const prose = ".jp-MarkdownCell .jp-RenderedMarkdown";
  return {
    cells: [...document.querySelectorAll(prose)].map(words),
    tables: document.querySelectorAll(`${prose} table`).length,
    boxes: [...document.querySelectorAll(`${prose} blockquote > p:first-child > strong:only-child`)]
      .filter((title) => title.textContent === title.parentElement.textContent).map((title) => title.textContent),
    details: [...document.querySelectorAll(`${prose} details`)].map((folded) => ({
      open: folded.open, title: folded.querySelector(":scope > summary")?.textContent,
      hidden: !folded.querySelector(":scope > :not(summary)").checkVisibility({ contentVisibilityAuto: true }),
    })),
    outputs: [...document.querySelectorAll(".jp-OutputArea-child")].map((output) => {
      const image = output.querySelector("img"), { width, height } = (image ?? output).getBoundingClientRect();
      return { width, height, image: Boolean(image?.naturalWidth), tables: output.querySelectorAll("table").length,
        text: (output.querySelector(".jp-OutputArea-output") ?? output).textContent.trim(),
        emphasised: output.querySelector("em")?.textContent };
    }),
  };
}"""


def sanitised(html: str) -> str:
    """Leave what GitHub leaves, and of other elements their text."""
    schemes = {"http", "https", "mailto"}
    return bleach.clean(html, set(ELEMENTS.split()), ATTRIBUTES, schemes, strip=True, strip_comments=True)


def github_markdown() -> MarkdownIt:
    """Return a reader of Markdown with tables and formulas, which leaves formulas as they are, for MathJax."""
    markdown = MarkdownIt("gfm-like").use(dollarmath_plugin, allow_space=False)
    markdown.add_render_rule("math_inline", lambda _, tokens, k, *__: f"${escape(tokens[k].content)}$")
    markdown.add_render_rule(
        "math_block", lambda _, tokens, k, *__: f"<p>$${escape(tokens[k].content)}$$</p>"
    )
    return markdown


def github(notebook: NotebookNode) -> str:
    """Return the page that GitHub makes of a notebook, in the classes of nbconvert's template."""
    markdown, parts = github_markdown(), []
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            prose = sanitised(markdown.render(cell.source))
            parts.append(f'<div class="jp-MarkdownCell"><div class="jp-RenderedMarkdown">{prose}</div></div>')
        else:
            parts.append(f"<pre>{escape(cell.source)}</pre>")
            parts += [
                f'<div class="jp-OutputArea-child">{github_output(output, markdown)}</div>'
                for output in cell.outputs
            ]
    style = "body { max-width: 60em; margin: auto; font: 16px/1.5 sans-serif } pre { overflow: auto; background: #eee }"
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style>\n' + "\n".join(parts)


def github_output(output: NotebookNode, markdown: MarkdownIt) -> str:
    """Return what GitHub shows of a cell's output."""
    if output.output_type not in ("display_data", "execute_result"):
        return f"<pre>{escape(output.get('text', ''))}</pre>"
    kind = next((kind for kind in MIME_TYPES if kind in output.data), "")
    value = output.data.get(kind, "")
    if kind in ("text/html", "text/markdown"):
        return sanitised(markdown.render(value) if kind == "text/markdown" else value)
    if kind.startswith("image/"):
        size = output.metadata.get(kind, {})
        shown = "".join(f' {name}="{size[name]}"' for name in ("width", "height") if name in size)
        return f'<img src="data:{kind};base64,{value}"{shown}>'
    return f"<pre>{escape(value)}</pre>" if kind == "text/plain" else ""


def nbconvert(notebook: NotebookNode) -> str:
    """Return what `jupyter nbconvert --to html` makes of a notebook, as nbviewer does."""
    return HTMLExporter(template_name="lab").from_notebook_node(notebook)[0]


@pytest.fixture
def seen(request, path, tab, tmp_path) -> tuple[NotebookNode, dict]:
    """A notebook, and what a browser shows of it; where a page asks for MathJax or a badge, it gets nothing."""
    notebook, page = chapters.read(path), tmp_path / "page.html"
    page.write_text(request.param(notebook), encoding="utf-8")
    return notebook, tab.open(page.as_uri(), "light").evaluate(LOOK)


@each_notebook
@pytest.mark.parametrize("seen", [github, nbconvert], indirect=True, ids=["GitHub", "nbconvert"])
def test_a_notebook_reads_well_elsewhere(path, seen):
    notebook, page = seen
    see_figures(notebook, page["outputs"])
    see_prose([cell.source for cell in notebook.cells if cell.cell_type == "markdown"], page)


@each_notebook
def test_figures_need_no_style(path, tab, tmp_path):
    """GitHub and nbviewer have shown SVGs inline and without the values of styles, all filled with black."""
    outputs = [output for cell in chapters.read(path).cells for output in cell.get("outputs", [])]
    figures = [
        output.data["image/svg+xml"] for output in outputs if "image/svg+xml" in output.get("data", {})
    ]
    bare = [re.sub(r' style="[^"]*"', "", figure) for figure in figures]
    style = "body { margin: 0 } div { width: 1200px; height: 600px }"
    style += "svg { float: left; width: 600px; height: 600px !important }"
    pairs = [f"<div>{one}{other}</div>" for one, other in zip(figures, bare, strict=True)]
    page = tmp_path / "page.html"
    page.write_text(f"<style>{style}</style>" + "".join(pairs), encoding="utf-8")
    shown = tab.open(page.as_uri(), "light").screenshot(full_page=True)
    pixels = np.asarray(Image.open(io.BytesIO(shown)).convert("L"), dtype=int)
    for k in range(len(figures)):
        left, right = (pixels[600 * k : 600 * k + 600, x : x + 600] for x in (0, 600))
        assert left.min() < 100 and left.max() == 255 and abs(left - right).mean() < 1, f"figure {k + 1}"


def see_figures(notebook: NotebookNode, shown: list[dict]) -> None:
    """Each figure is an image, with its description as a caption below; each table is a table."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert len(shown) == len(outputs)
    for output, seen, below in zip(outputs, shown, [*shown[1:], None], strict=True):
        data = output.get("data", {})
        if any(kind == "text/html" or kind.startswith("image/") for kind in data):
            assert seen["image"] and seen["width"] > 100 and seen["height"] > 60, seen["text"][:200]
            assert below and below["emphasised"] == below["text"] == data["text/plain"], "no caption"
        elif "text/markdown" in data:
            assert seen["text"] and not RAW_HTML.search(seen["text"])
            assert seen["tables"] == len(delimiters(data["text/markdown"]))


def see_prose(cells: list[str], page: dict) -> None:
    """All formulas are as they were written; no mark of Markdown, MyST or HTML is left; answers are folded."""
    whole = "\n\n".join(cells)
    for source, shown in zip(cells, page["cells"], strict=True):
        assert formulas(shown) == formulas(without_code(source))
        words = FORMULA.sub("formula", shown)
        assert not RAW_HTML.findall(words) and not MARKS.findall(words), words
    assert page["tables"] == len(delimiters(FENCES.sub("", whole)))
    assert page["boxes"] == re.findall(r"(?:\A|(?<=\n\n))> \*\*([^*\n]+)\*\*\n", whole)
    assert len(page["details"]) == whole.count("<details>")
    assert all(folded["title"] and folded["hidden"] and not folded["open"] for folded in page["details"])


def without_code(markdown: str) -> str:
    """Replace code, and remove the marks of block quotes."""
    return re.sub(r"^> ?", "", CODE.sub("code", FENCES.sub("code", markdown)), flags=re.M)


def formulas(text: str) -> list[str]:
    """Return the formulas in a text, in whatever lines they are."""
    return [" ".join(formula.split()) for formula in FORMULA.findall(text)]


def delimiters(markdown: str) -> list[str]:
    """Return the lines that make tables of what stands around them."""
    return re.findall(r"^(?:> )?\| ?:?-+:? ?\|[-:| ]*$", markdown, re.M)


def test_the_sanitiser_removes_what_github_removes():
    html = '<p onclick="x()" style="color: red" id="a" title="t">a<svg><text>b</text></svg></p><!-- c --><details>d'
    assert sanitised(html) == '<p title="t">ab</p><details>d</details>'


def test_prose_that_reads_badly_is_noticed():
    shown = {"tables": 0, "boxes": [], "details": []}
    see_prose(["a $b_1$"], {**shown, "cells": ["a $b_1$"]})
    for source, cell in {
        "$a_1$ and $b_1$": "$a1$ and $b1$",
        "a {cite}`b`": "a {cite}code",
        "<em>a</em>": "<em>a</em>",
        ":::{note} a": ":::{note} a",
        "**a **b": "**a **b",
    }.items():
        with pytest.raises(AssertionError):
            see_prose([source], {**shown, "cells": [cell]})
    for more in (
        {"tables": 1},
        {"boxes": ["Predict first"]},
        {"details": [{"open": True, "title": "Hint", "hidden": False}]},
    ):
        with pytest.raises(AssertionError):
            see_prose(["a"], {**shown, "cells": ["a"], **more})


def test_figures_that_are_not_seen_are_noticed():
    figure = new_output("display_data", {"image/png": "", "text/plain": "A line."})
    notebook = new_notebook(
        cells=[new_code_cell(outputs=[figure, new_output("display_data", {"text/markdown": "*A line.*"})])]
    )
    image = {"image": True, "width": 595, "height": 317, "text": ""}
    caption = {"image": False, "text": "A line.", "emphasised": "A line.", "tables": 0}
    see_figures(notebook, [image, caption])
    for shown in (
        [image],
        [{**image, "image": False}, caption],
        [{**image, "height": 60}, caption],
        [image, {**caption, "text": "A line. And more"}],
        [image, {**caption, "emphasised": None}],
    ):
        with pytest.raises(AssertionError):
            see_figures(notebook, shown)
