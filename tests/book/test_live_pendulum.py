"""The mass on a spring of chapter 10: out and home in float32, to the last bit as torch computes it."""

import re

import pytest
import screenshots
import torch

PAGE = "10_running_backwards.html"
LIVE = "[data-live='pendulum']"
EDGES = "e => [e.getBoundingClientRect().left, e.getBoundingClientRect().right]"
NAMES = ("x", "v", "x on the way out", "v on the way out")


@pytest.fixture(params=["reduce"])
def page(request, page):
    page.emulate_media(reduced_motion=request.param)
    return page


def said(page):
    return page.locator(f"{LIVE} .live-said").inner_text()


def press(page, label):
    page.locator(f"{LIVE} button", has_text=label).click(force=True)  # dimmed ones, too


def numbers(page):
    lines = page.locator(f"{LIVE} .live-numbers > div").all_inner_texts()
    read = dict(line.rsplit("\n", 1) for line in lines)
    assert tuple(read) == NAMES
    return torch.tensor([float(number.replace("−", "-")) for number in read.values()])


def put(page, label, value):
    """Move a slider to a value, by keys."""
    slider = page.locator(f"{LIVE} .live-slider", has_text=label)
    slider.locator("input").focus()
    page.keyboard.press("Home")
    while slider.locator("output").inner_text() != value:
        before = slider.locator("output").inner_text()
        page.keyboard.press("ArrowRight")
        assert slider.locator("output").inner_text() != before, f"{label} has no {value}"


def spring(x):
    return 0.1 * (1 - x)


def trip(gamma, layers):
    """Return [x, v] after each layer out, and on the way home: the chapter's `go` and `undo`, in float32."""
    x, velocity = torch.tensor(2.0), torch.tensor(0.0)
    out = [torch.stack([x, velocity])]
    for _ in range(layers):
        velocity = gamma * velocity + (1 - gamma) * spring(x)
        x = x + velocity
        out.append(torch.stack([x, velocity]))
    home = [out[-1]]
    for _ in range(layers):
        x = x - velocity
        velocity = (velocity - (1 - gamma) * spring(x)) / gamma
        home.append(torch.stack([x, velocity]))
    return torch.stack(out), torch.stack(home)


@pytest.mark.parametrize(
    ("gamma", "layers"), [(0.9, 40), (0.5, 40), (0.3, 20), (0.65, 100), (0.99, 60), (1, 10), (0.1, 60)]
)
def test_every_number_is_torch_s_to_the_last_bit(gamma, layers, page):
    out, home = trip(gamma, layers)
    assert out.dtype == home.dtype == torch.float32
    put(page, "γ", str(gamma))
    put(page, "layers", str(layers))
    for layer in (1, 2, 3):
        press(page, "Step")
        assert torch.equal(numbers(page)[:2], out[layer])
    press(page, "All the way there")
    assert torch.equal(numbers(page), torch.cat([out[-1], out[-1]]))
    for undone in (1, 2, 3):
        press(page, "Back")
        assert torch.equal(numbers(page), torch.cat([home[undone], out[layers - undone]]))
    press(page, "All the way home")
    assert torch.allclose(numbers(page), torch.cat([home[-1], out[0]]), rtol=0, atol=0, equal_nan=True)


def test_a_small_gamma_misses_the_start_and_a_large_one_does_not(page):
    far = {}
    for gamma in (0.9, 0.5):
        put(page, "γ", str(gamma))
        press(page, "All the way there")
        press(page, "All the way home")
        found = re.fullmatch(
            rf"γ = {gamma}, layer 0 of 40, 40 undone: (\S+) from where it was(?:, off the picture)?\. "
            r"Half a last digit, times γ to the power −40, is (\S+)\.",
            said(page),
        )
        out, home = trip(gamma, 40)
        error = abs(home[-1, 0].double() - out[0, 0].double()).item()
        far[gamma], foretold = (float(number.replace("−", "-")) for number in found.groups())
        assert [far[gamma], foretold] == pytest.approx([error, 2**-24 * gamma**-40], rel=0.05)
        assert far[gamma] < foretold
    assert far[0.9] < 1e-5 and far[0.5] > 1


def test_the_error_s_triangles_stand_where_the_errors_are(page):
    """One for each layer undone, in the layer's column and as high as the error's power of ten."""
    put(page, "γ", "0.5")
    press(page, "All the way there")
    press(page, "All the way home")
    out, home = trip(0.5, 40)
    errors = (home.flip(0) - out)[:40, 0].abs().double()
    drawn = page.locator(f"{LIVE} .pendulum-error").evaluate_all(
        "all => all.map(e => e.getAttribute('transform'))"
    )
    place = torch.tensor([[float(x) for x in re.findall(r"[\d.]+", one)] for one in drawn]).flip(0).double()
    assert place.shape == (40, 2)
    power = errors.log10().clamp(-8, 4)
    left, right, top, bottom = 62, 318, 12, 228
    layers = torch.arange(40, dtype=torch.float64)
    torch.testing.assert_close(place[:, 0], left + (right - left) * layers / 40, atol=0.1, rtol=0)
    torch.testing.assert_close(place[:, 1], bottom - (bottom - top) * (power + 8) / 12, atol=0.1, rtol=0)


def test_keys_and_mouse_step_out_and_back(page):
    assert said(page) == "γ = 0.9, layer 0 of 40: x = 2.000, v = 0.000."
    buttons = page.locator(f"{LIVE} button")
    assert buttons.all_inner_texts() == ["Step", "Back", "All the way there", "All the way home"]
    dimmed = "all => all.map(e => e.getAttribute('aria-disabled'))"
    assert buttons.evaluate_all(dimmed) == ["false", "true", "false", "true"]
    buttons.nth(0).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert said(page).startswith("γ = 0.9, layer 2 of 40: ")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert said(page).startswith("γ = 0.9, layer 1 of 40, 1 undone: exactly where it was.")
    press(page, "Back")
    press(page, "Back")  # there is no layer before the first
    assert said(page).startswith("γ = 0.9, layer 0 of 40, 2 undone: ")
    press(page, "All the way there")
    press(page, "Step")  # nor one after the last
    assert said(page).startswith("γ = 0.9, layer 40 of 40: x = 0.863")
    assert buttons.evaluate_all(dimmed) == ["true", "false", "true", "false"]


def test_a_slider_begins_anew(page):
    press(page, "All the way there")
    slider = page.locator(f"{LIVE} .live-slider input").first
    box = slider.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 4, box["y"] + box["height"] / 2)
    assert said(page) == "γ = 1, layer 0 of 40: x = 2.000, v = 0.000."
    press(page, "All the way there")  # at γ = 1 no layer is heard
    assert said(page) == "γ = 1, layer 40 of 40: x = 2.000, v = 0.000."


@pytest.mark.parametrize("page", ["no-preference"], indirect=True)
def test_it_moves_when_asked_and_stops_when_asked(page):
    before = said(page)
    press(page, "All the way there")
    assert said(page) == before  # on its way; what is said waits for the end
    page.wait_for_function(
        f"document.querySelector(\"{LIVE} .live-said\").textContent.includes('layer 40 of 40')"
    )
    press(page, "All the way home")
    press(page, "Step")
    where = numbers(page)
    page.wait_for_timeout(200)
    assert torch.equal(numbers(page), where)


@pytest.mark.parametrize("look", screenshots.LOOKS)
def test_nothing_sticks_out(look, pages, tab):
    page = tab.open((pages / PAGE).as_uri(), look)
    left, right = page.locator(LIVE).evaluate(EDGES)
    parts = page.locator(f"{LIVE} :is(svg text, button, .live-slider, .live-numbers > div, .live-key)")
    edges = parts.evaluate_all(f"all => all.map({EDGES})")
    assert len(edges) > 20 and all(left - 1 <= one and other <= right + 1 for one, other in edges)


def test_without_scripts_a_still_picture_of_the_same_height_stays(page, pages, chromium):
    moving = page.locator(f".live{LIVE}").bounding_box()["height"]
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    bare = context.new_page()
    bare.goto((pages / PAGE).as_uri())
    still = bare.locator(f".live{LIVE} svg[role='img']")
    assert still.is_visible() and "A mass on a spring" in still.get_attribute("aria-label")
    assert bare.locator(f".live{LIVE}").bounding_box()["height"] == pytest.approx(moving, rel=0.1)
    context.close()
