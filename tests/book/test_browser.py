"""Every page in a real browser: light, dark and on a phone 360 px wide.

`make test` loads each page once, in the light, with axe-core, and changes its look in place to see what may stick out
or lie on the wrong ground. `make test-all` also loads it in the dark and on a phone, and measures each page's contrast.
"""

import chapters
import pages as page_tools
import pytest
import screenshots
from axe_playwright_python.sync_playwright import Axe
from build_book import toc_pages
from fontTools.ttLib import TTFont

from capsnb.plots.embed import LIVE

CUT = """[...document.querySelectorAll(".bd-article div.math")].filter((formula) =>
  formula.scrollWidth > formula.clientWidth + 1).map((formula) => formula.textContent)"""
TRANSPARENT = "rgba(0, 0, 0, 0)"
SHIFT = 0.02  # a fifth of what browsers call good
MOST_BYTES = 1.5e6  # of a page with all that it loads, before any compression
PAPER = "[...document.querySelectorAll('.text_html:is(:has(.capsnb-figure), :has(.live))')]"
LOOKS = [  # how the page is loaded, and the looks that it is then given in place
    pytest.param("light", ["dark", "360px"], id="light"),
    pytest.param("dark", [], id="dark", marks=pytest.mark.all_looks),
    pytest.param("360px", [], id="360px", marks=pytest.mark.all_looks),
]
NAMES = [*toc_pages(), "genindex", "search"]


# Contrast takes most of axe-core's time, so `make test` measures it on three pages, which have all kinds of elements.
CONTRAST_ALWAYS = ("index", "04_a_first_capsnet", "reference-layers")
# No details of what is right, and no stylesheets fetched again: only axe's experimental rules read those.
AXE = {"resultTypes": ["violations"], "preload": False}
NAMES_AND_ROLES = {**AXE, "rules": {"color-contrast": {"enabled": False}}}
CONTRAST = {**AXE, "runOnly": ["color-contrast"]}


def findings(page, options) -> list[str]:
    """What axe-core finds that keeps somebody out."""
    return [
        f"{found['id']} ({found['impact']}): {found['help']}: {[node['html'][:200] for node in found['nodes'][:3]]}"
        for found in Axe().run(page, options=options).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


def everything_fits(page, look):
    """Nothing makes the page wider than the screen, no figure sticks out, and the theme is the look's."""
    scheme, width, _ = screenshots.LOOKS[look]
    page.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'", timeout=5000)
    assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 1
    if look != "360px":
        assert not page.evaluate(CUT), (
            "a formula is wider than its column: put wide spaces where it may break"
        )
    for figure in page.query_selector_all(".capsnb-figure svg"):
        box = figure.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= width + 1
    grounds = page.evaluate(f"{PAPER}.map(e => getComputedStyle(e).backgroundColor)")
    assert set(grounds) <= {TRANSPARENT}, "a figure lies on a card that its ink was not chosen for"


@pytest.mark.parametrize(("look", "then"), LOOKS)
@pytest.mark.parametrize("name", NAMES)
def test_page_in_browser(name, look, then, pages, tab):
    page = tab.open((pages / f"{name}.html").as_uri(), look)
    assert 1e5 < page_tools.weights(tab.asked)[0] <= MOST_BYTES
    everything_fits(page, look)
    if look in ("light", "dark"):  # a narrow page has the same colours and names
        assert not findings(page, NAMES_AND_ROLES)
    assert page.evaluate(page_tools.PAINTS)["layout-shift"] < SHIFT
    for other in then:
        tab.look(other)
        everything_fits(page, other)
    assert not tab.errors
    assert not tab.outside, "the page asked for something outside the book"


def in_which_run(name, look):
    usual = look == "light" and name in CONTRAST_ALWAYS
    return pytest.param(name, look, marks=() if usual else pytest.mark.all_looks)


@pytest.mark.parametrize(
    ("name", "look"), [in_which_run(n, look) for n in NAMES for look in ("light", "dark")]
)
def test_text_stands_out_from_its_ground(name, look, pages, tab):
    assert not findings(tab.open((pages / f"{name}.html").as_uri(), look), CONTRAST)


SIGNS = """() => [...document.querySelectorAll("body *")].flatMap((place) => ["::before", "::after"].map((part) => {
  const { content, fontFamily } = getComputedStyle(place, part);
  return [fontFamily, content.replaceAll('"', "")];
})).filter(([family, sign]) => family.includes("Awesome") && sign >= "\ue000")"""


@pytest.mark.parametrize("name", ["index", "02_vectors_that_squash", "reference-layers", "search"])
def test_icons_are_in_the_fonts_that_the_page_loads(name, pages, tab):
    fonts = {
        family: TTFont(
            pages / "_static" / "vendor" / "fontawesome" / "webfonts" / f"{file}.woff2"
        ).getBestCmap()
        for family, file in [("Awesome 6 Free", "fa-solid-900"), ("Awesome 6 Brands", "fa-brands-400")]
    }
    shown = tab.open((pages / f"{name}.html").as_uri(), "light").evaluate(SIGNS)
    assert len(shown) > 5
    for family, sign in shown:
        assert ord(sign) in next(font for part, font in fonts.items() if part in family), hex(ord(sign))


def test_axe_would_find_something(chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.set_content(
        "<html lang='en'><title>x</title><main><p style='color:#ccc'>faint</p><button></button></main>"
    )
    assert any("color-contrast" in found for found in findings(page, CONTRAST))
    names = findings(page, NAMES_AND_ROLES)
    assert any("button-name" in found for found in names) and not any(
        "color-contrast" in found for found in names
    )
    context.close()


@pytest.mark.parametrize("word", ["pendulum", "squash", "checkpointing"])
def test_search_works_from_the_disk(word, pages, tab):
    page = tab.open((pages / "search.html").as_uri() + f"?q={word}", "light")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    for link in found:
        assert (pages / link.split("/")[-1].split("?")[0].split("#")[0]).exists()
    assert found and not tab.errors and not tab.outside


def test_the_copy_button_copies_the_cell(pages, tab):
    page = tab.open((pages / "02_vectors_that_squash.html").as_uri(), "light")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cell = page.locator("div.highlight").first
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    assert page.evaluate("navigator.clipboard.readText()").startswith("try:\n    import capsnb\n")
    assert not tab.errors


@pytest.mark.parametrize("path", [*chapters.chapters(), *chapters.pages()], ids=lambda path: path.stem)
def test_figures_are_as_large_as_their_notebook_says(path, pages, tab):
    """On a wide page; a live figure's own script has taken its place there."""
    outputs = [output for cell in chapters.read(path).cells for output in cell.get("outputs", [])]
    stored = [output.metadata["image/png"] for output in outputs if "image/png" in output.get("data", {})]
    live = [output.metadata["image/png"] for output in outputs if LIVE in output.get("data", {})]
    page = tab.open((pages / f"{path.stem}.html").as_uri(), "light")
    boxes = [figure.bounding_box() for figure in page.query_selector_all(".capsnb-figure svg")]
    expected = [(said["width"], said["height"]) for said in stored if said not in live]
    assert len(boxes) == len(expected)
    for box, (width, height) in zip(boxes, expected, strict=True):
        assert abs(box["width"] - width) <= 1 and abs(box["height"] - height) <= 1
