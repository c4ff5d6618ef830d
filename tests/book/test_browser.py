"""Every page in a real browser: light, dark and on a phone 360 px wide."""

import pages as page_tools
import pytest
import screenshots
from axe_playwright_python.sync_playwright import Axe
from build_book import toc_pages
from fontTools.ttLib import TTFont

CUT = """[...document.querySelectorAll(".bd-article div.math")].filter((formula) =>
  formula.scrollWidth > formula.clientWidth + 1).map((formula) => formula.textContent)"""
TRANSPARENT = "rgba(0, 0, 0, 0)"
SHIFT = 0.02  # a fifth of what browsers call good
MOST_BYTES = 1.5e6  # of a page with all that it loads, before any compression


def findings(page) -> list[str]:
    """What axe-core finds that keeps somebody out."""
    return [
        f"{found['id']} ({found['impact']}): {found['help']}: {[node['html'][:200] for node in found['nodes'][:3]]}"
        for found in Axe().run(page).response["violations"]
        if found["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("look", screenshots.LOOKS)
@pytest.mark.parametrize("name", [*toc_pages(), "genindex", "search"])
def test_page_in_browser(name, look, pages, chromium):
    asked = set()
    page, errors, outside = screenshots.open_page(
        chromium, (pages / f"{name}.html").as_uri(), look, asked.add
    )
    try:
        assert 1e5 < page_tools.weights(asked)[0] <= MOST_BYTES
        assert not errors
        assert not outside, "the page asked for something outside the book"
        assert page.evaluate("document.documentElement.dataset.theme") == screenshots.LOOKS[look][0]
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 1
        if look != "360px":
            assert not page.evaluate(CUT), (
                "a formula is wider than its column: put wide spaces where it may break"
            )
        for figure in page.query_selector_all(".capsnb-figure svg"):
            box = figure.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= screenshots.LOOKS[look][1] + 1
        paper = "[...document.querySelectorAll('.text_html:is(:has(.capsnb-figure), :has(.live))')]"
        grounds = page.evaluate(f"{paper}.map(e => getComputedStyle(e).backgroundColor)")
        assert set(grounds) <= {TRANSPARENT}, "a figure lies on a card that its ink was not chosen for"
        assert page.evaluate(page_tools.PAINTS)["layout-shift"] < SHIFT
        if look in ("light", "dark"):  # a narrow page has the same colours and names
            assert not findings(page)
    finally:
        page.context.close()


SIGNS = """() => [...document.querySelectorAll("body *")].flatMap((place) => ["::before", "::after"].map((part) => {
  const { content, fontFamily } = getComputedStyle(place, part);
  return [fontFamily, content.replaceAll('"', "")];
})).filter(([family, sign]) => family.includes("Awesome") && sign >= "\ue000")"""


@pytest.mark.parametrize("name", ["index", "02_vectors_that_squash", "reference-layers", "search"])
def test_icons_are_in_the_fonts_that_the_page_loads(name, pages, chromium):
    fonts = {
        family: TTFont(
            pages / "_static" / "vendor" / "fontawesome" / "webfonts" / f"{file}.woff2"
        ).getBestCmap()
        for family, file in [("Awesome 6 Free", "fa-solid-900"), ("Awesome 6 Brands", "fa-brands-400")]
    }
    page, *_ = screenshots.open_page(chromium, (pages / f"{name}.html").as_uri(), "light")
    shown = page.evaluate(SIGNS)
    page.context.close()
    assert len(shown) > 5
    for family, sign in shown:
        assert ord(sign) in next(font for part, font in fonts.items() if part in family), hex(ord(sign))


def test_axe_would_find_something(chromium):
    context = chromium.new_context()
    page = context.new_page()
    page.set_content("<html lang='en'><title>x</title><main><p style='color:#ccc'>faint</p></main>")
    assert any("color-contrast" in found for found in findings(page))
    context.close()


@pytest.mark.parametrize("word", ["pendulum", "squash", "checkpointing"])
def test_search_works_from_the_disk(word, pages, chromium):
    address = (pages / "search.html").as_uri() + f"?q={word}"
    page, errors, outside = screenshots.open_page(chromium, address, "light")
    page.wait_for_selector("#search-results li a")
    found = page.locator("#search-results li a").evaluate_all("links => links.map(a => a.href)")
    for link in found:
        assert (pages / link.split("/")[-1].split("?")[0].split("#")[0]).exists()
    assert found and not errors and not outside
    page.context.close()


def test_the_copy_button_copies_the_cell(pages, chromium):
    page, errors, _ = screenshots.open_page(
        chromium, (pages / "02_vectors_that_squash.html").as_uri(), "light"
    )
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    cell = page.locator("div.highlight").first
    cell.hover()
    cell.locator("button.copybtn").click()
    page.wait_for_selector("button.copybtn.success")
    assert page.evaluate("navigator.clipboard.readText()").startswith("try:\n    import capsnb\n")
    assert not errors
    page.context.close()
