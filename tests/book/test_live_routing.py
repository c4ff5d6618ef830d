"""The routing explorer of chapter 3: its JavaScript is held to the package, then it is used as a reader would."""

import json

import pytest
import screenshots
import torch
from torch.testing import assert_close

from capsnb import plots, routing_by_agreement, squash

PAGE = "03_routing_by_agreement.html"
ROUNDS = 10


def given(page):
    return json.loads(page.locator(".live[data-live='routing']").get_attribute("data-given"))


def votes_of(example, J=10):
    """The votes that the page gets, `[1, I, J, E]`."""
    votes = plots.unpacked(example["votes"]).double()
    return votes.view(1, len(votes), J, -1)


def wrong_axis(votes, iterations):
    """Routing whose softmax runs over I: lengths and couplings of every round."""
    logits, rounds = votes.new_zeros(votes.shape[:3]), []
    for _ in range(iterations):
        couplings = logits.softmax(dim=1)
        v = squash(torch.einsum("bij,bije->bje", couplings, votes))
        logits = logits + torch.einsum("bije,bje->bij", votes, v)
        rounds.append((v[0].norm(dim=-1), couplings[0]))
    return rounds


def routed(page, example, wrong):
    script = (
        "([k, R, wrong]) => { const { names, examples } = "
        "JSON.parse(document.querySelector('.live[data-live=routing]').dataset.given);"
        "return capsnb.routed(capsnb.unpacked(examples[k].votes), names.length, R, wrong) }"
    )
    return page.evaluate(script, [example, ROUNDS, wrong])


def close(actual, expected):
    assert_close(torch.tensor(actual, dtype=torch.float64), expected, atol=1e-4, rtol=0)


def test_every_round_is_the_packages(page):
    for k, example in enumerate(given(page)["examples"]):
        votes, rounds = votes_of(example), routed(page, k, False)
        assert votes.shape[1] == len(example["lengths"]) and len(rounds) == ROUNDS
        for r, now in enumerate(rounds, start=1):
            v, couplings = routing_by_agreement(votes, r, return_couplings=True)
            close(now["couplings"], couplings[-1, 0])
            close(now["lengths"], v[0].norm(dim=-1))
            close(now["agreement"], torch.einsum("bije,bje->bij", votes, v)[0])


def test_the_wrong_axis_is_wrong_as_in_python(page):
    for k, example in enumerate(given(page)["examples"]):
        rounds = routed(page, k, True)
        for now, (lengths, couplings) in zip(rounds, wrong_axis(votes_of(example), ROUNDS), strict=True):
            close(now["couplings"], couplings)
            close(now["lengths"], lengths)


def figure(page):
    return page.locator(".routing")


def press(page, name):
    figure(page).get_by_role("button", name=name, exact=True).click()


def cells(page, row):
    """The figures of a row of the table that its words name, without its head."""
    return figure(page).locator(f"{row} td").all_inner_texts()


def caption(page):
    return figure(page).locator("caption").inner_text()


def test_the_table_shows_what_was_routed(page):
    for _ in range(4):
        press(page, "Step")
    example = given(page)["examples"][1]
    v, couplings = routing_by_agreement(votes_of(example), 5, return_couplings=True)
    longest = sorted(range(len(example["lengths"])), key=lambda i: -example["lengths"][i])[:12]
    rows = figure(page).locator("tbody:not(.routing-lengths) tr")
    assert rows.count() == len(longest)
    for row, i in enumerate(longest):
        shown = [float(text) for text in rows.nth(row).locator("td").all_inner_texts()]
        assert shown[:10] == pytest.approx(couplings[-1, 0, i].tolist(), abs=0.00501)
        assert shown[10] == 1
        assert f"part {i + 1}:" in rows.nth(row).locator("canvas").get_attribute("aria-label")
    lengths = [float(text) for text in cells(page, ".routing-lengths")[:10]]
    assert lengths == pytest.approx(v[0].norm(dim=-1).tolist(), abs=0.00501)
    sums = [float(text) for text in cells(page, "tfoot")[:10]]
    assert sums == pytest.approx(couplings[-1, 0].sum(0).tolist(), abs=0.0501)
    bars = page.evaluate(
        "[...document.querySelectorAll('.routing-bar div')].map(bar => "
        "bar.getBoundingClientRect().height / bar.parentElement.clientHeight)"
    )
    assert bars == pytest.approx(v[0].norm(dim=-1).tolist(), abs=0.02)
    press(page, "Agreement")
    agreement = torch.einsum("bije,bje->bij", votes_of(example), v)[0, longest[0]]
    shown = [float(text.replace("−", "-")) for text in rows.first.locator("td").all_inner_texts()[:10]]
    assert shown == pytest.approx(agreement.tolist(), abs=0.00501)


def test_rounds_by_mouse_and_keyboard(page):
    assert "round 1," in caption(page) and set(cells(page, "tbody:not(.routing-lengths)")) == {".10", "1.00"}
    press(page, "Step")
    assert "round 2," in caption(page)
    figure(page).get_by_role("button", name="Step", exact=True).focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Space")
    assert "round 4," in caption(page) and "round 4:" in figure(page).locator(".live-said").inner_text()
    press(page, "Back")
    assert "round 3," in caption(page)
    step = figure(page).get_by_role("button", name="Step", exact=True)
    for _ in range(ROUNDS):  # also when there is no further one
        step.press("Enter")
    assert f"round {ROUNDS}," in caption(page) and step.get_attribute("aria-disabled") == "true"
    press(page, "Start again")
    assert "round 1," in caption(page)


def test_another_image_and_the_wrong_axis(page):
    press(page, "Step")
    before = cells(page, ".routing-lengths")
    figure(page).get_by_role("button", name="image of a").first.click()
    assert cells(page, ".routing-lengths") != before and "round 2," in caption(page)
    wrong = figure(page).get_by_role("button", name="Softmax over the wrong axis")
    wrong.focus()
    page.keyboard.press("Enter")
    assert wrong.get_attribute("aria-pressed") == "true"
    assert set(cells(page, "tfoot")) == {"1.00", ""}, "over the wrong axis the columns sum to one"
    assert all(
        float(row) < 0.2 for row in figure(page).locator("tbody tr td:last-child").all_inner_texts() if row
    )
    assert "each column sums to 1" in figure(page).locator(".live-said").inner_text()


def test_what_travels_is_light(page):
    assert len(page.locator(".live[data-live='routing']").get_attribute("data-given")) < 150_000


@pytest.mark.parametrize("look", screenshots.LOOKS)
def test_the_table_fits_and_keeps_its_columns(pages, tab, look):
    """Also on a phone, and whatever is shown in it: a bar that moves sideways would say something."""
    page = tab.open((pages / PAGE).as_uri(), look)
    places = []
    for button in ("Couplings", "Agreement", "Softmax over the wrong axis", "Couplings"):
        press(page, button)
        places.append([bar.bounding_box()["x"] for bar in figure(page).locator(".routing-bar").all()])
        table, place = (page.locator(one).bounding_box() for one in (".routing-table", ".routing"))
        assert table["width"] <= place["width"] + 0.5
    assert places == [places[0]] * len(places)
    steps = [b - a for a, b in zip(places[0], places[0][1:], strict=False)]
    assert max(steps) - min(steps) < 1
