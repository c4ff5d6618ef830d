"""The checks of chapter 5: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import ch05


def outer(c, ds, u):
    return torch.einsum("btj,bje,btd->tjed", c, ds, u)


RIGHT = [
    (ch05.votes_megabytes, 128 * 2048 * 32 * 8 * 4 / 1e6),
    (ch05.votes_megabytes, 268),
    (ch05.votes_megabytes, torch.tensor(256.0)),
    (ch05.weight_gradient, outer),
    (
        ch05.weight_gradient,
        lambda c, ds, u: torch.einsum("btje,btd->tjed", c[..., None] * ds[:, None], u),
    ),
    (ch05.traffic, lambda B, I, J, D, E, R: R * I * D * (B + J * E)),
]
WRONG = [
    (ch05.votes_megabytes, 67.1, "four bytes"),
    (ch05.votes_megabytes, 2.1, "one image"),
    (ch05.votes_megabytes, 33.5, "logits"),
    (ch05.votes_megabytes, 2147, "summed over"),
    (ch05.votes_megabytes, 268435456, "million"),
    (ch05.votes_megabytes, 537, "float64"),
    (ch05.votes_megabytes, 42, "Multiply"),
    (ch05.votes_megabytes, "268", "finite number"),
    (ch05.weight_gradient, lambda c, ds, u: outer(c, ds, u) / len(c), "mean over the batch"),
    (ch05.weight_gradient, lambda c, ds, u: outer(torch.ones_like(c), ds, u), "couplings are missing"),
    (ch05.weight_gradient, lambda c, ds, u: outer(c, ds, u).transpose(2, 3), "swapped"),
    (
        ch05.weight_gradient,
        lambda c, ds, u: torch.einsum("btj,bje,btd->btjed", c, ds, u),
        "batch is still there",
    ),
    (ch05.weight_gradient, lambda c, ds, u: 2 * outer(c, ds, u), "differ by up to"),
    (ch05.traffic, lambda B, I, J, D, E, R: I * D * (B + J * E), "one round"),
    (ch05.traffic, lambda B, I, J, D, E, R: R * I * D * (B + B * J * E), "once a round"),
    (ch05.traffic, lambda B, I, J, D, E, R: R * (I * D * (B + J * E) + B * I * J * E), "never read back"),
    (ch05.traffic, lambda B, I, J, D, E, R: (R + 1) * I * D * (B + J * E), "backward"),
    (ch05.traffic, lambda B, I, J, D, E, R: R * B * I * D, "capsules alone"),
    (ch05.traffic, lambda B, I, J, D, E, R: R * I * J * E * D, "matrices alone"),
    (ch05.traffic, lambda B, I, J, D, E, R: 5, "how often"),
    (ch05.traffic, lambda B: 5, "stopped with TypeError"),
]
