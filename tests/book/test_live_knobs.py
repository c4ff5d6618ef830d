"""The knobs of chapter 4: the decoder in the page is held to the same decoder in Python, then the knobs are turned."""

import json

import chapters
import numpy as np
import pytest

from capsnb import plots
from capsnb.plots.embed import LIVE

PAGE = "04_a_first_capsnet.html"
SIZE = 16


def given(page):
    return json.loads(page.locator(".live[data-live='knobs']").get_attribute("data-given"))


def unpacked(packed):
    return plots.unpacked(packed).double().numpy()


def drawn(given, digit, capsule):
    """The decoder's picture of one capsule, in 256 levels."""
    x = np.zeros(10 * SIZE)
    x[SIZE * digit : SIZE * (digit + 1)] = capsule
    for k, layer in enumerate(given["layers"]):
        x = unpacked(layer["weight"]) @ x + np.array(layer["bias"])
        x = np.maximum(x, 0) if k < len(given["layers"]) - 1 else 1 / (1 + np.exp(-x))
    return 255 * x


def measured(pixels):
    """Ink, slant, width, height, right and up of a picture, pixel by pixel."""
    image = np.asarray(pixels, dtype=float).reshape(28, 28)
    places = [(image[r, c], c - 13.5, r - 13.5) for r in range(28) for c in range(28)]
    ink = sum(w for w, _, _ in places)
    x, y = (sum(place[0] * place[k] for place in places) / ink for k in (1, 2))
    xx, yy, xy = (
        sum(w * of(a - x, b - y) for w, a, b in places) / ink
        for of in (lambda a, b: a * a, lambda a, b: b * b, lambda a, b: a * b)
    )
    return [ink, -xy / yy, xx**0.5, yy**0.5, x, -y]


def picture(page):
    return page.evaluate(
        "[...document.querySelector('.knobs-drawing canvas').getContext('2d').getImageData(0, 0, 28, 28).data]"
        ".filter((_, k) => k % 4 === 0)"
    )


def same(page, given, digit, capsule):
    assert np.abs(np.array(picture(page)) - drawn(given, digit, np.array(capsule))).max() <= 2


def knob(page, k):
    return page.locator(".knobs-sliders input").nth(k)


def label(page):
    return page.locator(".knobs-drawing canvas").get_attribute("aria-label")


def said(page):
    return page.locator(".knobs .live-said").inner_text()


def button(page, name):
    return page.locator(".knobs").get_by_role("button", name=name)


def bars(page):
    return dict(row.split("\n") for row in page.locator(".knobs-measure").all_inner_texts())


def test_every_digit_begins_as_its_image(page):
    figures = given(page)
    assert len(figures["digits"]) == 10
    likeness = []
    for digit, of_digit in enumerate(figures["digits"]):
        button(page, f"digit {digit}").click()
        for start in of_digit["starts"]:
            same(page, figures, digit, start["capsule"])
            assert label(page) == f"Drawing of a {digit}: as in the image"
            assert bars(page)["length"] == f"{np.linalg.norm(start['capsule']):.2f}"
            image = 255 * unpacked(start["image"])[0]
            likeness.append(np.corrcoef(picture(page), image)[0, 1])
            button(page, f"Another {digit}").click()
        same(page, figures, digit, of_digit["starts"][0]["capsule"])  # after the last, the first
    assert np.mean(likeness) > 0.65 and min(likeness) > 0.35, "it draws what the images show, by and large"


def test_a_knob_turns_by_keyboard_and_by_mouse(page):
    figures = given(page)
    capsule = np.array(figures["digits"][3]["starts"][0]["capsule"])
    assert page.locator(".knobs-sliders input").count() == SIZE
    before = picture(page)
    knob(page, 5).focus()
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    capsule[5] += 0.1
    same(page, figures, 3, capsule)
    assert picture(page) != before
    assert label(page) == "Drawing of a 3: number 5 +0.10"
    assert said(page).startswith("3, number 5 +0.10.")
    assert knob(page, 5).get_attribute("aria-valuetext") == "+0.10 number 5"
    box = knob(page, 11).bounding_box()
    page.mouse.click(box["x"] + 3, box["y"] + box["height"] / 2)
    capsule[11] -= 0.5
    same(page, figures, 3, capsule)
    assert label(page) == "Drawing of a 3: number 5 +0.10, number 11 −0.50"
    assert bars(page)["length"] == f"{np.linalg.norm(capsule):.2f}"
    button(page, "Back to the image").click()
    assert picture(page) == before


def test_every_knob_changes_the_picture(page):
    before = np.array(picture(page))
    for k in range(SIZE):
        knob(page, k).focus()
        page.keyboard.press("End")
        assert np.abs(np.array(picture(page)) - before).max() > 10, f"number {k} does nothing"
        button(page, "Back to the image").click()


def test_a_direction_turns_all_knobs(page):
    figures = given(page)
    three, slant = figures["digits"][3], figures["properties"].index("slant")
    way = np.array(three["directions"][slant])
    before = picture(page)
    page.locator(".knobs-along input").focus()
    page.keyboard.press("End")
    capsule = np.array(three["starts"][0]["capsule"]) + 4 * way
    same(page, figures, 3, capsule)
    texts = page.locator(".knobs-sliders output").all_inner_texts()
    assert [float(t.replace("−", "-")) for t in texts] == pytest.approx((4 * way).tolist(), abs=0.00501)
    assert float(bars(page)["slant"].replace("−", "-")) > 0.5, "the drawing leans"
    # what has been turned stays turned when another direction is chosen, and a knob is turned from there
    page.locator(".knobs select").select_option("right")
    same(page, figures, 3, capsule)
    knob(page, 0).focus()
    page.keyboard.press("Home")
    capsule[0] = three["starts"][0]["capsule"][0] - 0.5
    same(page, figures, 3, capsule)
    button(page, "Back to the image").click()
    assert picture(page) == before


def test_the_bars_measure_the_drawing(page):
    figures = given(page)
    of_digit = figures["digits"][3]
    knob(page, 2).focus()
    for _ in range(3):
        page.keyboard.press("PageUp")
    turned = np.array(of_digit["starts"][0]["capsule"])
    turned[2] += float(page.locator(".knobs-sliders output").nth(2).inner_text())
    now = measured(drawn(figures, 3, turned) / 255)
    start = measured(drawn(figures, 3, of_digit["starts"][0]["capsule"]) / 255)
    expected = (np.array(now) - start) / of_digit["deviations"]
    shown = [float(bars(page)[name].replace("−", "-")) for name in figures["properties"]]
    assert np.abs(expected).max() > 0.3
    assert shown == pytest.approx(expected.tolist(), abs=0.0501)


def test_what_travels_is_light(page):
    assert len(page.locator(".live[data-live='knobs']").get_attribute("data-given")) < 200_000


def test_the_cell_can_be_found(root):
    """The first page shows this cell's output once more, and looks for its tag."""
    (path,) = chapters.chapters(["04"])
    tagged = [c for c in chapters.read(path).cells if "live-knobs" in c.metadata.get("tags", [])]
    assert len(tagged) == 1 and tagged[0].outputs[0].data[LIVE]["name"] == "knobs"


def test_on_a_phone_the_drawing_stays_in_sight(pages, tab):
    page = tab.open((pages / PAGE).as_uri(), "360px")
    knob(page, SIZE - 1).focus()
    page.keyboard.press("ArrowRight")
    box = page.locator(".knobs-drawing canvas").bounding_box()
    assert 0 < box["y"] < 300 and box["y"] + box["height"] < knob(page, SIZE - 1).bounding_box()["y"]
    assert not tab.errors
