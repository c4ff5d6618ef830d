"""What all live figures promise: a script for each, and a still picture where there are no scripts."""

import re

import pytest
import screenshots

FIGURES = {
    "squash": "02_vectors_that_squash.html",
    "routing": "03_routing_by_agreement.html",
    "knobs": "04_a_first_capsnet.html",
    "pendulum": "10_running_backwards.html",
    "memory": "17_reproducing_the_papers.html",
}


def test_these_are_all_of_them(root):
    scripts = {path.stem.removeprefix("live_") for path in (root / "book/_static").glob("live_*.js")}
    shown = set(
        re.findall(r'plots\.live\(\\"(\w+)', "".join(p.read_text() for p in (root / "book").glob("*.ipynb")))
    )
    assert scripts == shown == set(FIGURES)


@pytest.mark.parametrize("name", FIGURES)
def test_without_scripts_a_still_picture_stays(name, pages, chromium):
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((pages / FIGURES[name]).as_uri())
    assert page.locator(f".live[data-live='{name}'] svg").is_visible()
    context.close()


@pytest.mark.parametrize("look", screenshots.LOOKS)
@pytest.mark.parametrize("name", ["routing", "knobs"])
def test_the_page_does_not_jump(name, look, pages, tab):
    """The place that is kept for the script is as tall as what the script draws, or nearly."""
    page = tab.open((pages / FIGURES[name]).as_uri(), look)
    place = page.locator(f".live[data-live='{name}']")
    drawn = place.locator("> *").bounding_box()["height"]
    page.evaluate(f"document.querySelector('.live[data-live={name}]').innerHTML = ''")
    kept = place.bounding_box()["height"]
    assert abs(kept - drawn) < 60
