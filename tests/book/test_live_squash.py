"""The vector to drag of chapter 2: what it shows is what capsnb.squash and its gradient say."""

import math
import re

import pytest
import screenshots
import torch

from capsnb import squash

PAGE = "02_vectors_that_squash.html"
EDGES = "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"
NAMES = (
    "s: length before, n",
    "squash(s): length after",
    "stretching: radial gain",
    "turning: tangential gain",
)
PLANE = "[data-live='squash'] .live-panels svg >> nth=0"
HANDLE = "[data-live='squash'] .live-handle"
UNIT, MIDDLE = 60, (165, 135)  # the plane's own pixels, of 330 x 270


def said(page):
    return page.locator("[data-live='squash'] .live-said").inner_text()


def numbers(page):
    lines = page.locator("[data-live='squash'] .live-numbers > div").all_inner_texts()
    read = dict(line.rsplit("\n", 1) for line in lines)
    assert tuple(read) == NAMES
    return [float(number) for number in read.values()]


def tip(page):
    """Where s ends, in the plane's numbers."""
    x, y = (float(page.locator(HANDLE).get_attribute(name)) for name in ("cx", "cy"))
    return (x - MIDDLE[0]) / UNIT, (MIDDLE[1] - y) / UNIT


def drag(page, x, y):
    """Take the handle to (x, y) of the plane."""
    plane = page.locator(PLANE)
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()
    scale = box["width"] / 330
    start = page.locator(HANDLE).bounding_box()
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(
        box["x"] + scale * (MIDDLE[0] + UNIT * x), box["y"] + scale * (MIDDLE[1] - UNIT * y), steps=4
    )
    page.mouse.up()


def by_the_package(s):
    """Length before and after, and the two kinds of eigenvalues of the Jacobian along and across s."""
    s = torch.tensor(s, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(squash, s)
    along = s / s.norm()
    across = torch.stack([-along[1], along[0]])
    return [
        one.item()
        for one in (s.norm(), squash(s).norm(), along @ jacobian @ along, across @ jacobian @ across)
    ]


@pytest.mark.parametrize("to", [(0.12, -0.05), (0.5, 0.3), (-0.6, 0.8), (-1.1, -1.3), (2.2, 1.7)])
def test_it_shows_the_package_s_lengths_and_gains(to, page):
    drag(page, *to)
    s = tip(page)
    assert s == pytest.approx(to, abs=0.02)
    assert numbers(page) == pytest.approx(by_the_package(s), abs=6e-4)


def test_the_picture_is_as_long_as_the_numbers_say(page):
    """The thick arrow ends at the length after, and the ellipse has the gains for half-axes, in rings."""
    _, after, radial, tangential = numbers(page)
    ellipse = page.locator("[data-live='squash'] .squash-ring")
    cx, rx, ry = (float(ellipse.get_attribute(name)) for name in ("cx", "rx", "ry"))
    assert [cx / UNIT, 2 * rx / UNIT, 2 * ry / UNIT] == pytest.approx([after, radial, tangential], abs=6e-4)
    outline = page.locator("[data-live='squash'] .squash-after").get_attribute("d")
    assert max(map(float, re.findall(r"[\d.]+", outline))) / UNIT == pytest.approx(after, abs=6e-4)


def test_arrow_keys_find_where_stretching_and_turning_are_equally_easy(page):
    assert said(page).startswith("Length 1.50 becomes 0.69. Turning is 1.63 times")
    page.locator(HANDLE).focus()
    for key, times in (("ArrowLeft", 6), ("ArrowDown", 1)):
        for _ in range(times):
            page.keyboard.press(key)
    assert tip(page) == pytest.approx((0.6, 0.8))
    assert (
        said(page)
        == "Length 1.00 becomes 0.50. Stretching and turning are equally easy, and the ring stays round."
    )
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert tip(page) == pytest.approx((0.7, 0.9)) and math.hypot(0.7, 0.9) > 1
    assert "Turning is" in said(page)


def test_a_short_vector_vanishes_and_one_of_length_zero_hears_nothing(page):
    drag(page, 0.1, 0.1)
    before, after, *_ = numbers(page)
    assert after < before / 5
    assert "Stretching is 1.96 times" in said(page)
    drag(page, 0, 0)
    assert numbers(page) == [0, 0, 0, 0]
    assert said(page).endswith("a capsule of length zero is told nothing.")


def test_s_stays_in_the_picture(page):
    page.locator(HANDLE).focus()
    for _ in range(40):
        page.keyboard.press("ArrowUp")
    assert tip(page) == pytest.approx((1.2, 2.0))


@pytest.mark.parametrize("look", screenshots.LOOKS)
def test_nothing_sticks_out(look, pages, tab):
    page = tab.open((pages / PAGE).as_uri(), look)
    live = page.locator("[data-live='squash']")
    left, right = live.evaluate(EDGES)
    edges = live.locator("svg text, .live-numbers > div").evaluate_all(f"all => all.map({EDGES})")
    assert len(edges) > 10 and all(left - 1 <= one and other <= right + 1 for one, other in edges)


def test_without_scripts_a_still_picture_of_the_same_height_stays(page, pages, chromium):
    moving = page.locator(".live[data-live='squash']").bounding_box()["height"]
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    bare = context.new_page()
    bare.goto((pages / PAGE).as_uri())
    still = bare.locator(".live[data-live='squash'] svg[role='img']")
    assert still.is_visible() and "Three vectors" in still.get_attribute("aria-label")
    assert bare.locator(".live[data-live='squash']").bounding_box()["height"] == pytest.approx(
        moving, rel=0.1
    )
    context.close()
