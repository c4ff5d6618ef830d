"""Training steps of whole networks, over a baseline without capsule layers. Used in chapters 5 and 14."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from capsnb import models
from capsnb.backbones import LinearHead, feature_shape
from capsnb.bench import peak_memory
from capsnb.bench.measurement import (
    TIMING_COLUMNS,
    UNAVAILABLE,
    Bench,
    Columns,
    empty_line,
    median_ratio,
    quartiles,
    select,
    unavailable_backend,
    whole_settings,
)
from capsnb.kernels import BACKENDS
from capsnb.models import BackboneNet, CapsNet
from capsnb.profiling import time_interleaved
from capsnb.training import OPTIMIZERS

STEP_NETWORKS: dict[str, dict[str, Any]] = {  # arguments of `models.build`
    "MNIST": {"name": "CapsNet", "image_shape": (1, 28, 28), "blocks": 1},
    "CIFAR-10": {"name": "CapsNet", "image_shape": (3, 32, 32), "blocks": 1},
    "AlexCapsNet": {"name": "AlexCapsNet"},
    "ResNetCapsNet": {"name": "ResNetCapsNet"},
}
BASELINE = "without capsule layers"
STEP_VARIANTS = (*BACKENDS, BASELINE)
STEP_PEAK = ("B", "peak memory of a step, with weights, gradients and Adam's moments")
STEP_COLUMNS: Columns = {
    **TIMING_COLUMNS,
    "times_baseline": ("times", f"median over the median {BASELINE}"),
    "peak": STEP_PEAK,
}


def measure_step(
    cases: Iterable[str] = (),
    *,
    batch: int = 128,
    rounds: int = 20,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Time one training step of a network: forward pass, loss, backward pass, Adam.

    "MNIST" and "CIFAR-10" are a CapsNet with one block. Their baseline is the same network without capsule layers:
    convolutions, decoder and Adam. Its decoder reads as many numbers of the second feature map as there would be in the
    class capsules. The other two cases are the second paper's networks at its sizes. Their baseline is the same
    backbone with a linear head and no further convolution.

    Args:
        cases: names in `STEP_NETWORKS`; none for all.
        batch: B, the images or inputs of a batch, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `STEP_VARIANTS`; none for "eager", "fused", "auto" and the baseline.
        device: "cpu" or "cuda".
        seed: of weights and images.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that does not exist.
    """
    unavailable_backend(device)
    settings = whole_settings(batch=batch, rounds=rounds, seed=seed)
    batch, rounds, seed = settings.values()
    names = select(only, STEP_VARIANTS, "variant", exclude=UNAVAILABLE.values())
    lines = []
    for case in select(cases, STEP_NETWORKS, "case"):
        networks = {name: build_network(name, case, seed).to(device) for name in names}
        steps = {name: make_step(model, batch, seed) for name, model in networks.items()}
        timings = time_interleaved(steps, rounds=rounds, device=device, progress=case if progress else None)
        for name in names:
            lines.append(line := empty_line(STEP_COLUMNS, case, name, timings.errors.get(name)))
            if name in timings:
                line |= quartiles(timings[name])
                line["times_baseline"] = median_ratio(timings, name, BASELINE)
                line["peak"] = peak_memory.peak_of_step(networks[name], steps[name], device)
    return Bench.from_lines("step", STEP_COLUMNS, lines, device, blocks=1, **settings)


class _FirstNumbers(nn.Module):
    """Replacement of the capsule layers: the first numbers of the feature map, in the shape of class capsules."""

    def forward(self, u: Tensor) -> Tensor:
        return u.flatten(1)[:, : 10 * 16].unflatten(1, (10, 16))


def build_network(name: str, case: str, seed: int) -> CapsNet | BackboneNet:
    """A network of `STEP_NETWORKS` with a backend, or its baseline; equal seeds give equal initial weights."""
    backend = {} if name == BASELINE else {"backend": name}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = models.build(**STEP_NETWORKS[case], **backend)
    if name == BASELINE:
        if isinstance(model, BackboneNet):
            model.head = LinearHead(feature_shape(model.backbone, model.image_shape), activation="sigmoid")
        else:
            model.add_module("primary", model.primary.conv)
            model.capsules = nn.Sequential(_FirstNumbers())
    return model


def random_batch(
    image_shape: tuple[int, int, int], batch: int, device: str | torch.device, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Random images, targets of the decoder, and labels; the same numbers on every device."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(batch, *image_shape, generator=generator).to(device)
    targets = torch.rand(batch, *image_shape, generator=generator).to(device)
    return images, targets, torch.randint(10, (batch,), generator=generator).to(device)


def make_step(
    model: CapsNet | BackboneNet, batch: int, seed: int, parallel: nn.Module | None = None
) -> Callable[[], object]:
    """A function that takes one step of Adam, always on the same batch; `parallel` is the model wrapped in DDP."""
    images, targets, labels = random_batch(model.image_shape, batch, next(model.parameters()).device, seed)
    optimizer = OPTIMIZERS["adam"](model.parameters(), lr=1e-3)
    return partial(peak_memory.take_step, parallel or model, optimizer, images, targets, labels)
