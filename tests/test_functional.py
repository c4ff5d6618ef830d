"""The squash: short of one, same direction, a gradient everywhere."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb import squash
from capsnb.functional import squash_gradient

lengths = st.floats(0, 1e6, allow_nan=False)
shapes = st.lists(st.integers(1, 4), min_size=1, max_size=4)


def vectors(shape: list[int], scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def squash_of_one_vector(s: list[float]) -> list[float]:
    """The formula, number by number."""
    length = math.sqrt(sum(x * x for x in s))
    return [length**2 / (1 + length**2) * x / length if length else 0.0 for x in s]


@given(shape=shapes, scale=st.floats(1e-2, 1e3), seed=st.integers(0, 99))
def test_equals_the_formula_number_by_number(shape, scale, seed):
    s = vectors(shape, scale, seed)
    expected = torch.tensor([squash_of_one_vector(row) for row in s.reshape(-1, shape[-1]).tolist()])
    torch.testing.assert_close(squash(s, eps=0), expected.reshape(shape).double(), rtol=1e-6, atol=1e-12)


@given(length=lengths, seed=st.integers(0, 99))
def test_shorter_than_one_and_never_longer_than_before(length, seed):
    s = vectors([8], seed=seed)
    s = s / s.norm() * length
    assert squash(s).norm() < 1
    assert squash(s).norm() <= s.norm() + 1e-12


@given(scale=st.floats(0.1, 100), seed=st.integers(0, 99))
def test_direction_stays(scale, seed):
    s = vectors([5], scale, seed)
    cosine = torch.nn.functional.cosine_similarity(squash(s), s, dim=0)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


@given(seed=st.integers(0, 99))
def test_any_axis(seed):
    s = vectors([3, 4, 5], seed=seed)
    torch.testing.assert_close(squash(s, dim=1), squash(s.transpose(1, 2)).transpose(1, 2))


def test_short_vectors_lose_their_length_squared():
    s = torch.tensor([1e-3, 0.0], dtype=torch.float64)
    torch.testing.assert_close(
        squash(s, eps=1e-16).norm(), torch.tensor(1e-6, dtype=torch.float64), rtol=1e-4, atol=0
    )


def test_gradient_at_zero_is_finite():
    s = torch.zeros(4, 8, requires_grad=True)
    squash(s).sum().backward()
    assert s.grad is not None and s.grad.isfinite().all()


def test_gradcheck():
    assert torch.autograd.gradcheck(squash, (vectors([3, 4]).requires_grad_(),))


def test_half_precision_is_computed_in_float32():
    s = torch.full((2,), 300.0, dtype=torch.float16)  # 300^2 does not fit into float16
    v = squash(s)
    assert v.dtype == torch.float16
    torch.testing.assert_close(v.float().norm(), torch.tensor(1.0), rtol=1e-3, atol=0)


def test_integers_are_refused():
    with pytest.raises(TypeError, match="floating-point"):
        squash(torch.tensor([3, 4]))


@given(shape=st.tuples(st.integers(0, 3), st.integers(1, 5)), scale=st.sampled_from([0.0, 1e-6, 1.0, 1e4]))
def test_the_closed_form_of_the_gradient_is_autograd_s(shape, scale):
    generator = torch.Generator().manual_seed(0)
    s, dv = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    s = (scale * s).requires_grad_()
    (expected,) = torch.autograd.grad(squash(s), s, dv)
    torch.testing.assert_close(squash_gradient(s.detach(), dv), expected)
