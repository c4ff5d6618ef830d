"""The memory bar of chapter 17: by mouse and by keyboard, and the sizes that its cell computed."""

import pytest

PAGE = "17_reproducing_the_papers.html"


def said(page):
    return page.locator(".live[data-live='memory'] .live-said").inner_text()


def test_the_memory_bar_follows_keyboard_and_mouse(page):
    sliders = page.locator(".live-slider input")
    assert sliders.count() == 2
    before = said(page)
    assert before.startswith("8 blocks, 128 images: ")
    sliders.first.focus()
    page.keyboard.press("ArrowRight")
    assert said(page).startswith("9 blocks, 128 images: ") and said(page) != before
    box = sliders.last.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert said(page).startswith("9 blocks, 512 images: ")
    assert sliders.last.get_attribute("aria-valuetext") == "512 images"


def test_the_memory_bar_shows_what_the_cell_computed(page):
    """The largest bar fills its track, and each bar's parts are as long as its figure says."""
    totals = [
        int(text.replace(",", "").removesuffix(" MB"))
        for text in page.locator(".memory-total").all_inner_texts()
    ]
    lengths = page.evaluate(
        "[...document.querySelectorAll('.memory-track')].map("
        "track => [...track.children].reduce((sum, part) => sum + part.getBoundingClientRect().width, 0))"
    )
    assert len(totals) == 3 and max(lengths) > 50
    for total, length in zip(totals, lengths, strict=True):
        assert length / max(lengths) == pytest.approx(total / max(totals), abs=0.02)
