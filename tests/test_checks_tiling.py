"""The checks of chapter 5: what is right, and what is wrong and why; see `test_checks.py`."""

import torch

from capsnb.checks import tiling


def outer(c, ds, u):
    return torch.einsum("btj,bje,btd->tjed", c, ds, u)


RIGHT = [
    (tiling.votes_megabytes, 128 * 2048 * 32 * 8 * 4 / 1e6),
    (tiling.votes_megabytes, 268),
    (tiling.votes_megabytes, torch.tensor(256.0)),
    (tiling.weight_gradient, outer),
    (
        tiling.weight_gradient,
        lambda c, ds, u: torch.einsum("btje,btd->tjed", c[..., None] * ds[:, None], u),
    ),
    (tiling.traffic, lambda B, I, J, D, E, R: R * I * D * (B + J * E)),
]
WRONG = [
    (tiling.votes_megabytes, 67.1, "four bytes"),
    (tiling.votes_megabytes, 2.1, "one image"),
    (tiling.votes_megabytes, 33.5, "logits"),
    (tiling.votes_megabytes, 2147, "summed over"),
    (tiling.votes_megabytes, 268435456, "million"),
    (tiling.votes_megabytes, 537, "float64"),
    (tiling.votes_megabytes, 42, "Multiply"),
    (tiling.votes_megabytes, "268", "finite number"),
    (tiling.weight_gradient, lambda c, ds, u: outer(c, ds, u) / len(c), "mean over the batch"),
    (tiling.weight_gradient, lambda c, ds, u: outer(torch.ones_like(c), ds, u), "couplings are missing"),
    (tiling.weight_gradient, lambda c, ds, u: outer(c, ds, u).transpose(2, 3), "swapped"),
    (
        tiling.weight_gradient,
        lambda c, ds, u: torch.einsum("btj,bje,btd->btjed", c, ds, u),
        "batch is still there",
    ),
    (tiling.weight_gradient, lambda c, ds, u: 2 * outer(c, ds, u), "differ by up to"),
    (tiling.traffic, lambda B, I, J, D, E, R: I * D * (B + J * E), "one round"),
    (tiling.traffic, lambda B, I, J, D, E, R: R * I * D * (B + B * J * E), "once a round"),
    (tiling.traffic, lambda B, I, J, D, E, R: R * (I * D * (B + J * E) + B * I * J * E), "never read back"),
    (tiling.traffic, lambda B, I, J, D, E, R: (R + 1) * I * D * (B + J * E), "backward"),
    (tiling.traffic, lambda B, I, J, D, E, R: R * B * I * D, "capsules alone"),
    (tiling.traffic, lambda B, I, J, D, E, R: R * I * J * E * D, "matrices alone"),
    (tiling.traffic, lambda B, I, J, D, E, R: 5, "how often"),
    (tiling.traffic, lambda B: 5, "stopped with TypeError"),
]
EXERCISES = [tiling.votes_megabytes, tiling.weight_gradient, tiling.traffic]
