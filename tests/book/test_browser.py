"""Every page in a real browser: light, dark and on a phone 360 px wide."""

import pytest
import screenshots
from build_book import toc_pages

TRANSPARENT = "rgba(0, 0, 0, 0)"


@pytest.mark.parametrize("look", screenshots.LOOKS)
@pytest.mark.parametrize("name", toc_pages())
def test_page_in_browser(name, look, pages, chromium):
    page, errors, outside = screenshots.open_page(chromium, (pages / f"{name}.html").as_uri(), look)
    try:
        assert not errors
        assert not outside, "the page asked for something outside the book"
        assert page.evaluate("document.documentElement.dataset.theme") == screenshots.LOOKS[look][0]
        assert page.evaluate("document.scrollingElement.scrollWidth - window.innerWidth") <= 1
        assert not page.evaluate("[...document.querySelectorAll('mjx-merror')].map(e => e.textContent)")
        for figure in page.query_selector_all(".capsnb-figure svg"):
            box = figure.bounding_box()
            assert box["x"] >= 0 and box["x"] + box["width"] <= screenshots.LOOKS[look][1] + 1
        paper = "[...document.querySelectorAll('.text_html:is(:has(.capsnb-figure), :has(.live))')]"
        grounds = page.evaluate(f"{paper}.map(e => getComputedStyle(e).backgroundColor)")
        assert set(grounds) <= {TRANSPARENT}, "a figure lies on a card that its ink was not chosen for"
    finally:
        page.context.close()
