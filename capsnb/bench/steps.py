"""Training steps of whole networks, over the same network without capsules. Used in chapter 5."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from capsnb.bench.measurement import (
    ELSEWHERE,
    SECONDS,
    Bench,
    Columns,
    blank,
    chosen,
    elsewhere,
    finished,
    ratio,
    seconds,
)
from capsnb.kernels import BACKENDS, Backend
from capsnb.losses import capsule_loss
from capsnb.models import CapsNet
from capsnb.profiling import compare, peak_bytes
from capsnb.training import OPTIMIZERS

NETWORKS = {"MNIST": (1, 28, 28), "CIFAR-10": (3, 32, 32)}  # C, H, W
WITHOUT = "without capsule layers"
VARIANTS = (*BACKENDS, WITHOUT)
COLUMNS: dict[str, Columns] = {
    "step": {
        **SECONDS,
        "times_floor": ("times", f"median over the median {WITHOUT}"),
        "peak": ("B", "highest point of a step: weights, gradients, Adam's moments, and what comes and goes"),
    },
}


def step(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    rounds: int = 20,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Time one training step of a CapsNet with one block: images, loss, gradients, Adam.

    The floor is the same network without capsules: convolutions, decoder and Adam alone. Its decoder draws from as many
    numbers of the second feature map as the class capsules would have.

    Args:
        cases: names in `NETWORKS`; none for all.
        batch: B, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `VARIANTS`, backends and the floor; none for "auto", "fused", "eager" and the floor.
        device: "cpu" or "cuda".
        seed: of weights and images.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    elsewhere(device)
    names = chosen(only, VARIANTS, "variant", leave=ELSEWHERE.values())
    lines = []
    for case in chosen(cases, NETWORKS, "case"):
        models = {name: network(name, NETWORKS[case], seed).to(device) for name in names}
        steps = {name: training_step(model, batch, seed) for name, model in models.items()}
        timings = compare(steps, rounds=rounds, device=device, progress=case if progress else None)
        for name in names:
            lines.append(line := blank(COLUMNS["step"], case, name, timings.errors))
            if name in timings:
                line |= seconds(timings, name) | {"times_floor": ratio(timings, name, WITHOUT)}
                # Weights and Adam's two moments are there when a step begins; gradients come and go within it.
                states = 3 * sum(p.nbytes for p in models[name].parameters())
                line["peak"] = states + peak_bytes(steps[name], device).peak
    return finished("step", COLUMNS["step"], lines, device, batch=batch, blocks=1, rounds=rounds, seed=seed)


class _FirstNumbers(nn.Module):
    """In place of capsules: the first numbers of the feature map, in the shape of class capsules."""

    def forward(self, u: Tensor) -> Tensor:
        return u.flatten(1)[:, : 10 * 16].unflatten(1, (10, 16))


def network(name: str, image_shape: tuple[int, int, int], seed: int) -> CapsNet:
    """A CapsNet with one block and this backend, or the floor; the same seed draws the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CapsNet(image_shape, blocks=1)
    if name == WITHOUT:
        model.add_module("primary", model.primary.conv)
        model.capsules = nn.Sequential(_FirstNumbers())
    for layer in model.capsule_layers:
        layer.backend = cast(Backend, name)
    return model


def inputs(
    image_shape: tuple[int, int, int], batch: int, device: str | torch.device, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the pictures that the decoder is to draw, and labels, the same numbers on every device."""
    if batch < 1:
        raise ValueError(f"batch must be 1 or more, got {batch}")
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *image_shape, generator=generator).to(device)
    targets = torch.rand(batch, *image_shape, generator=generator).to(device)
    return images, targets, torch.randint(10, (batch,), generator=generator).to(device)


def training_step(
    model: CapsNet, batch: int, seed: int, parallel: nn.Module | None = None
) -> Callable[[], object]:
    """A step of Adam on these inputs, over and over; `parallel` wraps the model, if it does not train alone."""
    images, targets, labels = inputs(model.image_shape, batch, model.conv.weight.device, seed)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)

    def step() -> None:
        capsule_loss((parallel or model)(images, labels), targets, labels).total.backward()
        optimizer.step()
        optimizer.zero_grad()  # at the end: the step's memory includes its gradients

    return step
