"""The checks of chapter 1: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.checks import ch01

X, Y, DEGREES = ch01.FLAG
there = ch01._move(X, Y, DEGREES)
back = there.inverse()
changes = st.sets(st.sampled_from(["swap", "shuffle", "raise"]))

RIGHT = [
    (ch01.vote, (4, 2, 0, 1)),
    (ch01.vote, torch.tensor([4.0, 2.0, 0.0, 1.0])),
    (ch01.transform, back),
    (ch01.transform, ch01._move(0.8, 0.7, 90)),
    (ch01.invariances, ch01.INVARIANT_TO),
]

WRONG = [
    (ch01.vote, (3, 1, 0, 1), "down the *picture"),
    (ch01.vote, (2, 2, 0, 1), "wrong way"),
    (ch01.vote, (3, 2, 0, 1), "where the bar is"),
    (ch01.vote, (3, 3, 0, 1), "Twice the other way"),
    (ch01.vote, (9, 9, 0, 1), "row by row"),
    (ch01.vote, (4, 2, 1, 0), "upright"),
    (ch01.vote, (4, 2, 0, -1), "keep the bar's angle"),
    (ch01.vote, (4, 2, 90, 0), "squares sum to one"),
    (ch01.vote, (4, 2), "Four numbers"),
    (ch01.vote, "up", "Four numbers"),
    (ch01.transform, there, "other way"),
    (ch01.transform, ch01._move(-X, -Y, -DEGREES), "Signs alone"),
    (ch01.transform, there.T, "transpose inverts the turn"),
    (ch01.transform, back.T, "wrong side"),
    (ch01.transform, torch.eye(4), "where I am"),
    (ch01.transform, ch01._move(0.8, 0.7, 0), "look at the angle"),
    (ch01.transform, ch01._move(0, 0, 90), "look at the walk"),
    (ch01.transform, torch.zeros(4, 4), "Neither"),
    (ch01.transform, (0.8, 0.7, 90), "4 x 4"),
    (ch01.invariances, ["swap"], "keys"),
    (ch01.invariances, {**ch01.INVARIANT_TO, "max 2x2": {"blur"}}, "none of"),
]


def test_an_exercise_with_nothing_in_its_dictionary_is_open():
    assert ch01.invariances(dict.fromkeys(ch01.INVARIANT_TO, ...)).right is None


POOLINGS = {
    "max 2x2": torch.nn.MaxPool2d(2),
    "global max": torch.nn.AdaptiveMaxPool2d(1),
    "global mean": torch.nn.AdaptiveAvgPool2d(1),
}


def changed(change, image):
    image = image.clone()
    if change == "swap":  # within the first window
        image[..., 0, 0], image[..., 1, 1] = image[..., 1, 1].clone(), image[..., 0, 0].clone()
    elif change == "shuffle":
        image = image.flatten(2)[..., torch.arange(16).roll(5)].unflatten(2, (4, 4))
    else:
        window = image[..., :2, :2]
        image[..., :2, :2] = torch.where(window == window.min(), window.max() - 1, window)
    return image


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("change", ["swap", "shuffle", "raise"])
def test_what_poolings_forget_is_what_poolings_do(pooling, change):
    image = torch.randperm(16, generator=torch.Generator().manual_seed(3)).float().mul(10).view(1, 1, 4, 4)
    same = torch.equal(POOLINGS[pooling](image), POOLINGS[pooling](changed(change, image)))
    assert same == (change in ch01.INVARIANT_TO[pooling])


@given(first=changes, second=changes, third=changes)
def test_only_one_set_of_answers_is_right_and_every_other_is_explained(first, second, third):
    answer = dict(zip(ch01.INVARIANT_TO, (first, second, third), strict=True))
    verdict = ch01.invariances(answer)
    assert verdict.right == (answer == ch01.INVARIANT_TO)
    assert verdict.right or any(why in verdict.message for why in ch01.REASONS.values())
