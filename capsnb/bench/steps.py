"""Training steps of whole networks, over the same network without capsules. Used in chapters 5 and 14."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from capsnb import memory
from capsnb.backbones import LinearHead, feature_shape
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
from capsnb.layers import RoutingCapsules
from capsnb.models import AlexCapsNet, BackboneNet, CapsNet, ResNetCapsNet
from capsnb.profiling import compare
from capsnb.training import OPTIMIZERS

NETWORKS: dict[str, Callable[[], CapsNet | BackboneNet]] = {
    "MNIST": lambda: CapsNet((1, 28, 28), blocks=1),
    "CIFAR-10": lambda: CapsNet((3, 32, 32), blocks=1),
    "AlexCapsNet": lambda: AlexCapsNet(),
    "ResNetCapsNet": lambda: ResNetCapsNet(),
}
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
    """Time one training step of a network: images, loss, gradients, Adam.

    "MNIST" and "CIFAR-10" are a CapsNet with one block. The floor is the same network without capsules: convolutions,
    decoder and Adam alone. Its decoder draws from as many numbers of the second feature map as the class capsules would
    have. The other two cases are the second paper's networks at its sizes; their floor is the same backbone with a
    linear head, which has no convolution of its own.

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
        models = {name: network(name, case, seed).to(device) for name in names}
        steps = {name: training_step(model, batch, seed) for name, model in models.items()}
        timings = compare(steps, rounds=rounds, device=device, progress=case if progress else None)
        for name in names:
            lines.append(line := blank(COLUMNS["step"], case, name, timings.errors))
            if name in timings:
                line |= seconds(timings, name) | {"times_floor": ratio(timings, name, WITHOUT)}
                line["peak"] = memory.highest(models[name], steps[name], device)
    return finished("step", COLUMNS["step"], lines, device, batch=batch, blocks=1, rounds=rounds, seed=seed)


class _FirstNumbers(nn.Module):
    """In place of capsules: the first numbers of the feature map, in the shape of class capsules."""

    def forward(self, u: Tensor) -> Tensor:
        return u.flatten(1)[:, : 10 * 16].unflatten(1, (10, 16))


def network(name: str, case: str, seed: int) -> CapsNet | BackboneNet:
    """A network of the measurement with this backend, or its floor; the same seed draws the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = NETWORKS[case]()
    if name == WITHOUT:
        if isinstance(model, BackboneNet):
            model.head = LinearHead(feature_shape(model.backbone, model.image_shape), activation="sigmoid")
        else:
            model.add_module("primary", model.primary.conv)
            model.capsules = nn.Sequential(_FirstNumbers())
    for layer in model.modules():
        if isinstance(layer, RoutingCapsules):
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
    model: CapsNet | BackboneNet, batch: int, seed: int, parallel: nn.Module | None = None
) -> Callable[[], object]:
    """A step of Adam on these inputs, over and over; `parallel` wraps the model, if it does not train alone."""
    images, targets, labels = inputs(model.image_shape, batch, next(model.parameters()).device, seed)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)

    return partial(memory.step, parallel or model, optimizer, images, targets, labels)
