"""What the build makes of a plain notebook (`book/_ext/capsnb_notebooks.py`), piece by piece."""

import json
from xml.etree import ElementTree

import capsnb_notebooks as notebooks
import pytest
from capsnb_notebooks import boxed, cited, folded, in_the_page

from capsnb import plots
from capsnb.plots.embed import LIVE, caption, to_svg

SABOUR, GUO = "https://arxiv.org/abs/1710.09829", "https://arxiv.org/abs/1706.04599"


@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        (f"As [Sabour et al. (2017)]({SABOUR}) say.", "As {cite:t}`sabour2017dynamic` say."),
        (f"Here ([Sabour et al., 2017]({SABOUR})).", "Here {cite}`sabour2017dynamic`."),
        (
            f"([Sabour et al., 2017]({SABOUR}); [Guo et al., 2017]({GUO}))",
            "{cite}`sabour2017dynamic,guo2017calibration`",
        ),
        (f"[their table]({SABOUR})", None),  # a link, no citation
        (f"([Sabour et al., 2011]({SABOUR}))", None),  # another year: the tests of Markdown say so
        ("[chapter 2](02_vectors_that_squash.ipynb) (2017)", None),
    ],
)
def test_citations(plain, expected):
    assert cited(plain) == (expected or plain)


def test_boxes():
    plain = "Before.\n\n> **Predict first**\n>\n> One\n> line.\n>\n> - $x$\n\nAfter."
    assert boxed(plain) == (
        "Before.\n\n:::{admonition} Predict first\n:class: tip\nOne\nline.\n\n- $x$\n:::\n\nAfter."
    )
    assert boxed("> **What you need**\n>\n> x") == ":::{admonition} What you need\nx\n:::\n"
    for quote in ("> A **quotation**\n>\n> of two paragraphs.", "> **Bold** and more\n>\n> text"):
        assert boxed(quote) == quote


def test_answers():
    plain = "<details>\n<summary>Hint for <code>x</code></summary>\n\nSum.\n\n</details>"
    assert folded(plain) == "::::::{dropdown} Hint for `x`\nSum.\n::::::"


@pytest.fixture
def shown():
    fig, axes = plots.figure()
    axes.plot([0, 1])
    fig = plots.describe(fig, "A line, x_1 rising.")
    first = {
        "output_type": "display_data",
        "metadata": {"image/png": {"width": 595}},
        "data": {"image/svg+xml": to_svg(fig), "image/png": "", "text/plain": fig.alt},
    }
    return fig, [first, {"output_type": "display_data", "data": {"text/markdown": caption(fig.alt)}}]


def test_a_figure_stands_in_the_page_and_its_caption_is_its_label(shown):
    fig, outputs = shown
    table = {"output_type": "display_data", "data": {"text/markdown": "| a |"}}
    figure, other, again, words = in_the_page([*outputs, table, *outputs[1:], *outputs, outputs[1]])[:4]
    assert figure["data"] == {"text/html": plots.to_html(fig)} == words["data"]
    assert other == table
    assert again == outputs[1]  # no figure before it: not a caption


def test_a_live_figure_gets_its_place(shown):
    _, outputs = shown
    outputs[0]["data"][LIVE] = {"name": "squash", "given": {"start": [1]}}
    (live,) = in_the_page(outputs)
    place = ElementTree.fromstring(live["data"]["text/html"])
    assert (place.get("class"), place.get("data-live")) == ("live", "squash")
    assert json.loads(place.get("data-given")) == {"start": [1]}
    assert place[0].get("class") == "capsnb-figure"


def test_authors_are_named_as_citations_name_them(tmp_path):
    entry = "@misc{{k{n}, author = {{{who}}}, year = {{2020}}, doi = {{10.1/{n}}}}}\n"
    who = [
        "De, Soham and Smith, Samuel L.",
        "Rodr{\\'\\i}guez-S{\\'a}nchez, Antonio",
        "van den Berg, J. and B, C. and D, E.",
    ]
    bibliography = tmp_path / "references.bib"
    bibliography.write_text("".join(entry.format(n=n, who=name) for n, name in enumerate(who)))
    names = [names for _, names, _ in notebooks.citations(bibliography).values()]
    assert names == ["De and Smith", "Rodríguez-Sánchez", "van den Berg et al."]
