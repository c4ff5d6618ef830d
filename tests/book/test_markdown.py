r"""The Markdown of notebooks: plain, with citations as the bibliography has them and formulas that every program sets.

Formulas are set by MathJax in JupyterLab, nbconvert and GitHub (versions 2 to 4), by KaTeX in VS Code and in Colab's
outputs, and by math-core in the book. `MACROS` are those that MathJax and KaTeX both list
(https://docs.mathjax.org/en/latest/input/tex/macros/, https://katex.org/docs/support_table) and that GitHub allows: it
refuses a whole formula for `\operatorname`, `\phantom`, `\unicode`, `\mathchoice` or any macro that defines another
(https://github.com/github/markup/issues/1688). To use one more, look it up there and add it.
"""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import chapters
import pytest
from bs4 import BeautifulSoup
from build_book import ROOT
from capsnb_notebooks import citations
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin

NOTEBOOKS = [*chapters.chapters(), *chapters.pages()]
PAGES = sorted((ROOT / "book").glob("*.md"))
each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
markdown = MarkdownIt("gfm-like").use(dollarmath_plugin, allow_space=False, allow_blank_lines=False)

MACROS = r"""
\alpha \beta \gamma \delta \epsilon \varepsilon \eta \theta \lambda \mu \pi \rho \sigma \tau \phi \ell
\boldsymbol \mathbb \mathbf \mathrm \mathsf \text
\binom \frac \hat \overline \sqrt \tfrac \underbrace
\arg \cos \det \exp \log \max \min \sin \partial \prod \sum
\approx \cdot \dots \equiv \ge \in \infty \le \ll \mid \neq \odot \pm \propto \sim \times \top
\leftarrow \Longleftrightarrow \mapsto \to \rightarrow
\langle \rangle \lfloor \rfloor \lvert \rvert \lVert \rVert \big \Big \left \right
\begin \end \\ \, \; \! \  \{ \} \quad \qquad
"""
ENVIRONMENTS = {"aligned", "cases", "pmatrix"}

# {cite}`..` and other roles, directives in colons or backticks, targets, substitutions
MYST = re.compile(r"\{[\w:.+-]+\}\x00|^:{3,}|^\([\w-]+\)=$|\{\{.*?\}\}", re.M)


def inline(source: str) -> list[list[Token]]:
    """Return what stands in each paragraph, heading and cell of a table: text, code, formulas, links."""
    return [token.children for token in markdown.parse(source) if token.type == "inline"]


def prose(children: list[Token]) -> str:
    """Return the text between formulas, with a sign in the place of code."""
    kept = {"code_inline": "\0", "math_inline": " ", "math_inline_double": " ", "softbreak": "\n"}
    return "".join(kept.get(token.type, token.content) for token in children)


def links(source: str) -> list[tuple[str, str, str]]:
    """Return label, address and the words before it in its paragraph, of each link."""
    found = []
    for children in inline(source):
        for k, token in enumerate(children):
            if token.type == "link_open":
                end = next(j for j in range(k, len(children)) if children[j].type == "link_close")
                found.append((prose(children[k:end]), token.attrs["href"], prose(children[:k])))
    return found


def cells(path: Path) -> list[str]:
    """Return the Markdown of a notebook or a page, cell by cell."""
    if path.suffix == ".md":
        return [path.read_text(encoding="utf-8")]
    return [cell.source for cell in chapters.read(path).cells if cell.cell_type == "markdown"]


@each_notebook
def test_markdown_is_plain(path):
    notebook = chapters.read(path)
    made = [
        output.data["text/markdown"]
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "text/markdown" in output.get("data", {})
    ]
    for source in [*cells(path), *made]:
        assert not [token.info for token in markdown.parse(source) if token.info.startswith("{")]
        assert not [mark for children in inline(source) for mark in MYST.findall(prose(children))]


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PAGES], ids=lambda path: path.stem)
def test_citations_name_whom_the_bibliography_names(path):
    """In a sentence as "Hinton and Wang (2011)", in parentheses as "Hinton and Wang, 2011"."""
    known = citations()
    for source in cells(path):
        for label, address, before in links(source):
            if address in known:
                _, names, year = known[address]
                enclosed = before.count("(") > before.count(")")
                forms = {f"{names} ({year})", f"{names}, {year}"} if enclosed else {f"{names} ({year})"}
                assert label in forms, f"{label}: should be {' or '.join(forms)}"
            else:
                assert not re.search(r"[\w.](?:, \d{4}| \(\d{4}\))$", label), (
                    f"{label}: {address} is not in references.bib"
                )


def test_the_bibliography_has_addresses_and_nothing_that_is_not_cited():
    written = len(re.findall(r"^@", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M))
    assert None not in citations() and len(citations()) == written, "no address, or the same as another's"
    cited = {
        address for path in [*NOTEBOOKS, *PAGES] for source in cells(path) for _, address, _ in links(source)
    }
    assert not [key for address, (key, *_) in citations().items() if address not in cited]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("author={Raschka, S.}, doi={10.1/x}, url={https://b.org}", ("https://doi.org/10.1/x", "Raschka")),
        ("author={{The capsnb authors}}, url={https://b.org}", ("https://b.org", "The capsnb authors")),
        ("author={A, B. and C, D. and others}, url={https://b.org}", ("https://b.org", "A et al.")),
    ],
)
def test_what_an_entry_is_cited_as(fields, expected, tmp_path):
    (tmp_path / "some.bib").write_text(f"@misc{{key, title={{T}}, year={{2020}}, {fields}}}")
    ((address, (_, names, year)),) = citations(tmp_path / "some.bib").items()
    assert (address, names, year) == (*expected, "2020")


@each_notebook
def test_each_dollar_sign_belongs_to_a_formula(path):
    """None follows or precedes a space, a digit follows none, and no formula in a table has a bar."""
    for source in cells(path):
        for children in inline(source):
            assert "$" not in prose(children), prose(children)
            for formula, after in pairwise([*children, Token("text", "", 0)]):
                if formula.type == "math_inline":
                    assert not after.content[:1].isdigit(), formula.content
        for table in re.findall(r"(?:^(?:> )?\|.*\n?)+", source, re.M):
            assert "\\|" not in table, "a bar in a formula: \\lvert, \\mid or \\lVert"


@each_notebook
def test_formulas_are_in_macros_that_every_program_sets(path):
    known = set(re.findall(r"\\(?:[A-Za-z]+|.)", MACROS))
    for source in cells(path):
        for formula in formulas(source):
            assert set(re.findall(r"\\(?:[A-Za-z]+|.)", formula, re.S)) <= known, formula
            assert set(re.findall(r"\\begin\{(.*?)\}", formula)) <= ENVIRONMENTS, formula
        outside = [
            words for children in inline(source) for words in re.findall(r"\\[A-Za-z]+", prose(children))
        ]
        assert not outside, "a formula stands between dollar signs: Colab, VS Code and GitHub set no other"


def formulas(source: str) -> list[str]:
    """Return the formulas of a cell, without their dollar signs."""
    tokens = markdown.parse(source)
    return [
        token.content
        for block in tokens
        for token in (block.children or [block])
        if token.type.startswith("math_")
    ]


def test_formulas_are_found():
    assert formulas("a $x_1$ $$y$$\n\n$$\nz\n$$\n\n> $$u$$\n\n| a |\n|---|\n| $v$ |\n") == [
        "x_1",
        "y",
        "\nz\n",
        "u",
        "v",
    ]


@each_notebook
def test_the_page_has_the_citations_and_boxes_of_its_notebook(path, pages):
    soup = BeautifulSoup((pages / f"{path.stem}.html").read_text(encoding="utf-8"), "html.parser")
    sources = cells(path)
    keys = [
        citations()[address][0]
        for source in sources
        for _, address, _ in links(source)
        if address in citations()
    ]
    cited = soup.select('article a[href^="bibliography.html#"]')
    assert len(cited) == len(keys)
    boxes = [title for source in sources for title in boxed(source)]
    shown = [title.get_text() for title in soup.select("article .admonition > .admonition-title")]
    assert Counter(boxes) == Counter(shown)


def boxed(source: str) -> list[str]:
    """Return the titles of the block quotes whose first paragraph is in bold."""
    found = []
    for quote, paragraph, words in zip(
        tokens := markdown.parse(source), tokens[1:], tokens[2:], strict=False
    ):
        if quote.type == "blockquote_open" and paragraph.type == "paragraph_open":
            kinds = [token.type for token in words.children if token.content or token.nesting]
            if kinds[:1] + kinds[-1:] == ["strong_open", "strong_close"] and kinds.count("strong_open") == 1:
                found.append(prose(words.children))
    return found
