"""Routing by agreement: the definition against a loop, its couplings, its gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnb import routing_by_agreement, squash

sizes = st.tuples(*[st.integers(1, 4)] * 4)


def votes_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def routing_in_loops(votes: torch.Tensor, iterations: int) -> torch.Tensor:
    """Procedure 1 of Sabour et al. 2017, one number at a time."""
    B, I, J, E = votes.shape
    v = torch.zeros(B, J, E, dtype=votes.dtype)
    for n in range(B):
        b = [[0.0] * J for _ in range(I)]
        for _ in range(iterations):
            c = [[math.exp(b[i][j]) / sum(math.exp(x) for x in b[i]) for j in range(J)] for i in range(I)]
            for j in range(J):
                s = [sum(c[i][j] * float(votes[n, i, j, e]) for i in range(I)) for e in range(E)]
                v[n, j] = squash(torch.tensor(s, dtype=votes.dtype))
            for i in range(I):
                for j in range(J):
                    b[i][j] += float((votes[n, i, j] * v[n, j]).sum())
    return v


@settings(max_examples=30)
@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_equals_the_procedure_in_loops(shape, iterations, seed):
    votes = votes_of(shape, seed)
    torch.testing.assert_close(routing_by_agreement(votes, iterations), routing_in_loops(votes, iterations))


@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_couplings_sum_to_one_over_output_capsules(shape, iterations, seed):
    _, couplings = routing_by_agreement(votes_of(shape, seed), iterations, return_couplings=True)
    assert couplings.shape == (iterations, *shape[:3])
    torch.testing.assert_close(couplings.sum(dim=-1), torch.ones_like(couplings[..., 0]))


@given(shape=sizes, seed=st.integers(0, 99))
def test_logits_are_votes_times_the_sum_of_earlier_outputs(shape, seed):
    votes = votes_of(shape, seed)
    earlier = sum(routing_by_agreement(votes, r) for r in (1, 2))
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    logits = torch.einsum("bije,bje->bij", votes, earlier)
    torch.testing.assert_close(couplings[2], logits.softmax(dim=-1))


@given(shape=sizes, seed=st.integers(0, 99))
def test_the_order_of_input_capsules_does_not_matter(shape, seed):
    votes = votes_of(shape, seed)
    torch.testing.assert_close(routing_by_agreement(votes), routing_by_agreement(votes.flip(1)))


def test_the_first_couplings_are_uniform():
    votes = votes_of((2, 5, 4, 3))
    torch.testing.assert_close(routing_by_agreement(votes, 1), squash(votes.sum(1) / 4))


def test_agreement_gathers_couplings():
    agree = torch.tensor([1.0, 0.0]).expand(6, 2)
    scatter = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]])
    votes = torch.stack([agree, scatter], dim=1)[None]
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    to_the_agreed = couplings[:, 0, :, 0].mean(dim=-1)
    assert to_the_agreed[0] == 0.5 and to_the_agreed[1] < to_the_agreed[2]


def test_gradcheck_through_all_iterations():
    votes = votes_of((2, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: routing_by_agreement(u, 3, detach=False), (votes,))


def test_by_default_the_earlier_iterations_are_constants():
    votes = votes_of((2, 3, 4, 5)).requires_grad_()
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    last_step = squash(torch.einsum("bij,bije->bje", couplings[-1], votes))
    weights = torch.randn_like(last_step)
    (expected,) = torch.autograd.grad((last_step * weights).sum(), votes)
    (found,) = torch.autograd.grad((routing_by_agreement(votes, 3) * weights).sum(), votes)
    (full,) = torch.autograd.grad((routing_by_agreement(votes, 3, detach=False) * weights).sum(), votes)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(full, expected)


@pytest.mark.parametrize(
    "wrong", [{"votes": torch.ones(2, 3, 4)}, {"votes": torch.ones(1, 1, 1, 1), "iterations": 0}]
)
def test_bad_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=r"\[B, I, J, E\]|iterations"):
        routing_by_agreement(**wrong)
