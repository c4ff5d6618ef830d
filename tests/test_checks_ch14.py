"""The checks of chapter 14: what is right, and what is wrong and why; see `test_checks.py`."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb.backbones import AlexBackbone, CapsuleHead, feature_shape
from capsnb.checks import ch14


def parameters(C, types, D, kernel, places, J, E):
    return types * D * (C * kernel**2 + 1) + types * places * J * E * D


def alex(n):
    return ((n + 4 - 11) // 4 + 1 - 3) // 2 + 1


RIGHT = [
    (ch14.side, alex),
    (ch14.side, lambda n: torch.tensor(alex(n))),
    (ch14.side, lambda n: feature_shape(AlexBackbone(), (1, n, n))[1]),
    (ch14.head_parameters, parameters),
    (ch14.residual_block, lambda x, branch: torch.relu(x + branch(x))),
    (ch14.residual_block, lambda x, branch: (branch(x) + x).clamp(min=0)),
    (ch14.as_capsules, lambda sums: sums.sigmoid().unsqueeze(-1)),
    (ch14.as_capsules, lambda sums: (1 / (1 + (-sums).exp()))[..., None]),
]
WRONG = [
    (ch14.side, lambda n: (n - 7) // 4 + 1, "pooling comes after"),
    (ch14.side, lambda n: ((n - 11) // 4 + 1 - 3) // 2 + 1, "4 in all"),
    (ch14.side, lambda n: ((n + 2 - 11) // 4 + 1 - 3) // 2 + 1, "both sides"),
    (ch14.side, lambda n: ((n - 7) // 4 + 1) // 2, "3 wide"),
    (ch14.side, lambda n: ((n - 7) / 4 + 1 - 3) / 2 + 1, "with //"),
    (ch14.side, lambda n: n, "Begin with the first"),
    (ch14.side, lambda n: "two", "finite number"),
    (ch14.side, lambda: 2, "stopped with TypeError"),
    (ch14.head_parameters, lambda C, t, D, k, p, J, E: t * p * J * E * D, "has weights too"),
    (ch14.head_parameters, lambda C, t, D, k, p, J, E: t * D * (C * k * k + 1), "pair of capsules"),
    (ch14.head_parameters, lambda C, t, D, k, p, J, E: t * D * C * k * k + t * p * J * E * D, "bias"),
    (
        ch14.head_parameters,
        lambda C, t, D, k, p, J, E: t * D * (C * k + 1) + t * p * J * E * D,
        "square",
    ),
    (ch14.head_parameters, lambda C, t, D, k, p, J, E: t * D * (C * k * k + 1 + J * E), "every place"),
    (
        ch14.head_parameters,
        lambda C, t, D, k, p, J, E: p * t * D * (C * k * k + 1 + J * E),
        "same weights",
    ),
    (ch14.head_parameters, lambda *sizes: 1, "convolution first"),
    (ch14.residual_block, lambda x, branch: x + branch(x), "after the sum"),
    (ch14.residual_block, lambda x, branch: torch.relu(branch(x)), "shortcut"),
    (ch14.residual_block, lambda x, branch: x + torch.relu(branch(x)), "only ever add"),
    (ch14.residual_block, lambda x, branch: torch.relu(x + branch(branch(x))), "given x"),
    (ch14.residual_block, lambda x, branch: 2 * x, "differ by up to"),
    (ch14.as_capsules, lambda sums: sums.sigmoid(), "axis is missing"),
    (ch14.as_capsules, lambda sums: sums.sigmoid()[:, None], "last one"),
    (ch14.as_capsules, lambda sums: sums.softmax(1)[:, :, None], "class alone"),
    (ch14.as_capsules, lambda sums: sums[:, :, None], "not negative"),
    (ch14.as_capsules, lambda sums: sums.tanh()[:, :, None], "large negative"),
]


@given(*(st.integers(1, 4) for _ in range(4)), st.integers(2, 5), st.integers(1, 3), st.integers(1, 3))
def test_the_formula_is_the_packages(C, types, D, kernel, J, E, more):
    """The answer to the second exercise is true of any head."""
    side = kernel + more
    sizes = {"capsule_types": types, "capsule_dim": D, "kernel_size": kernel, "class_dim": E}
    head = CapsuleHead((C, side, side), J, **sizes)
    count = sum(p.numel() for p in head.parameters())
    assert count == parameters(C, types, D, kernel, (more + 1) ** 2, J, E)
