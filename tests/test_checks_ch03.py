"""The checks of chapter 3: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch

from capsnb import squash
from capsnb.checks import ch03


def agreement(votes, v):
    return torch.einsum("bije,bje->bij", votes, v)


RIGHT = [
    (ch03.update, lambda b, votes, v: b + agreement(votes, v)),
    (ch03.update, lambda b, votes, v: b + (votes * v[:, None]).sum(dim=-1)),
    (ch03.shift, lambda b, k: b + k[:, :, None]),
    (ch03.shift, lambda b, k: b + k.unsqueeze(-1).expand_as(b)),
    (ch03.single_round, lambda votes: squash(votes.sum(dim=1) / votes.shape[2])),
    (ch03.single_round, lambda votes: squash(votes.mean(dim=1) * votes.shape[1] / votes.shape[2])),
    (ch03.softmax_axis, lambda b: b.softmax(dim=0)),
    (ch03.softmax_axis, lambda b: b.exp() / b.exp().sum(dim=0)),
]

WRONG = [
    (ch03.update, lambda b, votes, v: agreement(votes, v), "collect"),
    (ch03.update, lambda b, votes, v: b - agreement(votes, v), "subtracted"),
    (ch03.update, lambda b, votes, v: (b + agreement(votes, v)).softmax(-1), "couplings already"),
    (ch03.update, lambda b, votes, v: b + torch.cosine_similarity(votes, v[:, None], -1), "cosine"),
    (ch03.update, lambda b, votes, v: b + (votes * v[:, None]).mean(-1), "averaged"),
    (ch03.update, lambda b, votes, v: b + 2 * agreement(votes, v), "differ by up to"),
    (ch03.update, lambda b, votes, v: votes * v[:, None], "[B, I, J]"),
    (ch03.shift, lambda b, k: b, "Nothing was added"),
    (ch03.shift, lambda b, k: b + k[:, None, :], "*output* capsule"),
    (ch03.shift, lambda b, k: b + k, "axes I and J"),
    (ch03.shift, lambda b, k: b * k[:, :, None], "factor"),
    (ch03.shift, lambda b, k: (b + k[:, :, None]).softmax(-1), "Return the shifted logits"),
    (ch03.single_round, lambda votes: votes.sum(1) / votes.shape[2], "squash is missing"),
    (ch03.single_round, lambda votes: squash(votes.mean(1)), "divide by I"),
    (ch03.single_round, lambda votes: squash(votes.sum(1)), "coupling is missing"),
    (ch03.single_round, lambda votes: squash(votes).sum(1) / votes.shape[2], "Sum first"),
    (ch03.single_round, lambda votes: squash(votes.sum(2) / votes.shape[2]), "runs over J"),
    (ch03.softmax_axis, lambda b: b.softmax(dim=-1), "*output* capsule sum to one"),
    (ch03.softmax_axis, lambda b: b.softmax(dim=1), "batch"),
    (ch03.softmax_axis, lambda b: b.flatten().softmax(0).reshape(b.shape), "all axes"),
    (ch03.softmax_axis, lambda b: b / b.sum(dim=0, keepdim=True), "negative"),
]


@pytest.mark.parametrize("check", [ch03.update, ch03.shift, ch03.single_round, ch03.softmax_axis])
def test_answers_that_cannot_be_looked_at_are_named(check):
    assert "float" in check(0.5).message
    assert "list" in check(lambda *_: [1]).message
    stopped = check(lambda *inputs: inputs[0] @ torch.ones(99, dtype=torch.float64))
    assert stopped.right is False
    assert "RuntimeError" in stopped.message


def test_an_answer_that_works_in_place_is_accepted():
    assert ch03.update(lambda b, votes, v: b.add_(agreement(votes, v))).right
    assert ch03.shift(lambda b, k: b.add_(k[:, :, None])).right
