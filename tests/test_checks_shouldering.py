"""The checks of chapter 14: what is right, and what is wrong and why; see `test_checks.py`."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.backbones import AlexBackbone, CapsuleHead, feature_shape
from capsnb.checks import shouldering


def parameters(C, types, D, kernel, places, J, E):
    return types * D * (C * kernel**2 + 1) + types * places * J * E * D


def alex(n):
    return ((n + 4 - 11) // 4 + 1 - 3) // 2 + 1


RIGHT = [
    (shouldering.side, alex),
    (shouldering.side, lambda n: torch.tensor(alex(n))),
    (shouldering.side, lambda n: feature_shape(AlexBackbone(), (1, n, n))[1]),
    (shouldering.head_parameters, parameters),
    (shouldering.residual_block, lambda x, branch: torch.relu(x + branch(x))),
    (shouldering.residual_block, lambda x, branch: (branch(x) + x).clamp(min=0)),
    (shouldering.as_capsules, lambda sums: sums.sigmoid().unsqueeze(-1)),
    (shouldering.as_capsules, lambda sums: (1 / (1 + (-sums).exp()))[..., None]),
]
WRONG = [
    (shouldering.side, lambda n: (n - 7) // 4 + 1, "pooling comes after"),
    (shouldering.side, lambda n: ((n - 11) // 4 + 1 - 3) // 2 + 1, "4 in all"),
    (shouldering.side, lambda n: ((n + 2 - 11) // 4 + 1 - 3) // 2 + 1, "both sides"),
    (shouldering.side, lambda n: ((n - 7) // 4 + 1) // 2, "3 wide"),
    (shouldering.side, lambda n: ((n - 7) / 4 + 1 - 3) / 2 + 1, "with //"),
    (shouldering.side, lambda n: n, "Begin with the first"),
    (shouldering.side, lambda n: "two", "finite number"),
    (shouldering.side, lambda: 2, "stopped with TypeError"),
    (shouldering.head_parameters, lambda C, t, D, k, p, J, E: t * p * J * E * D, "has weights too"),
    (shouldering.head_parameters, lambda C, t, D, k, p, J, E: t * D * (C * k * k + 1), "pair of capsules"),
    (shouldering.head_parameters, lambda C, t, D, k, p, J, E: t * D * C * k * k + t * p * J * E * D, "bias"),
    (
        shouldering.head_parameters,
        lambda C, t, D, k, p, J, E: t * D * (C * k + 1) + t * p * J * E * D,
        "square",
    ),
    (shouldering.head_parameters, lambda C, t, D, k, p, J, E: t * D * (C * k * k + 1 + J * E), "every place"),
    (
        shouldering.head_parameters,
        lambda C, t, D, k, p, J, E: p * t * D * (C * k * k + 1 + J * E),
        "same weights",
    ),
    (shouldering.head_parameters, lambda *sizes: 1, "convolution first"),
    (shouldering.residual_block, lambda x, branch: x + branch(x), "behind the sum"),
    (shouldering.residual_block, lambda x, branch: torch.relu(branch(x)), "shortcut"),
    (shouldering.residual_block, lambda x, branch: x + torch.relu(branch(x)), "only ever add"),
    (shouldering.residual_block, lambda x, branch: torch.relu(x + branch(branch(x))), "given x"),
    (shouldering.residual_block, lambda x, branch: 2 * x, "differ by up to"),
    (shouldering.as_capsules, lambda sums: sums.sigmoid(), "axis is missing"),
    (shouldering.as_capsules, lambda sums: sums.sigmoid()[:, None], "last one"),
    (shouldering.as_capsules, lambda sums: sums.softmax(1)[:, :, None], "class alone"),
    (shouldering.as_capsules, lambda sums: sums[:, :, None], "not negative"),
    (shouldering.as_capsules, lambda sums: sums.tanh()[:, :, None], "large negative"),
]
EXERCISES = [
    *(shouldering.side, shouldering.head_parameters, shouldering.residual_block, shouldering.as_capsules)
]


@given(*(st.integers(1, 4) for _ in range(4)), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_the_formula_is_the_packages(C, types, D, kernel, J, E, more):
    """The answer to the second exercise is true of any head."""
    side = kernel + more
    head = CapsuleHead(
        *((C, side, side), J), capsule_types=types, capsule_dim=D, kernel_size=kernel, class_dim=E
    )
    count = sum(p.numel() for p in head.parameters())
    assert count == parameters(C, types, D, kernel, (more + 1) ** 2, J, E)


@pytest.mark.parametrize("check", EXERCISES)
def test_a_function_with_nothing_in_it_is_open(check):
    assert check(lambda *arguments: ...).right is None
