"""Memory and time by depth: of hidden capsule stacks, reversible and not, and of whole networks.

Used in chapters 13 and 17.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from capsnb import models
from capsnb.bench import peak_memory
from capsnb.bench.measurement import (
    TIMING_COLUMNS,
    Bench,
    Columns,
    empty_line,
    quartiles,
    select,
    unavailable_backend,
    whole_settings,
)
from capsnb.bench.routing_backends import LAYER_SIZES, SAVED
from capsnb.bench.training_step import STEP_PEAK, make_step, random_batch
from capsnb.functional import squash
from capsnb.layers import RoutingCapsules
from capsnb.models import CapsNet
from capsnb.profiling import Timings, format_error, peak_bytes, saved_bytes, time_interleaved
from capsnb.progress import progress_bar
from capsnb.reversible import MomentumCapsules, ResidualCapsules
from capsnb.values import whole_numbers

GAMMA = 0.9
BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 20)  # the paper's, and its deepest
IMAGE_SHAPE = (1, 28, 28)
MODELS: dict[str, dict[str, Any]] = {"CapsNet": {}, "ResCapsNet": {}, "MoCapsNet": {"gamma": GAMMA}}
STORED, RECOMPUTED = ", votes stored", ", recomputed"

Stack = Callable[[Tensor], Tensor]  # x [B, J, E] -> [B, J, E]


def momentum_autograd(layers: list[nn.Module], gamma: float = GAMMA) -> Stack:
    """MoCapsNet's stack, differentiated by autograd, which saves tensors of every layer."""
    return MomentumCapsules(layers, gamma).forward_plain


def momentum_layers(
    layers: list[nn.Module], gamma: float, x: Tensor, velocity: Tensor
) -> tuple[Tensor, Tensor]:
    """The recurrence as the paper writes it, in the dtype of x: x and velocity after these layers."""
    for layer in layers:
        velocity = gamma * velocity + (1 - gamma) * layer(x)
        x = x + velocity
    return x, velocity


def residual_recomputed(layers: list[nn.Module]) -> Stack:
    """ResCapsNet's stack, whose layers save their inputs and recompute the rest."""
    copies = [copy.copy(layer) for layer in layers]  # the same weights
    for layer in copies:
        cast(RoutingCapsules, layer).save = "inputs"
    return ResidualCapsules(copies)


def residual_checkpoints(layers: list[nn.Module]) -> Stack:
    """ResCapsNet's stack with a checkpoint for each block of two layers."""
    from torch.utils.checkpoint import checkpoint

    blocks = [ResidualCapsules(layers[k : k + 2]) for k in range(0, len(layers), 2)]

    def stack(x: Tensor) -> Tensor:
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    return stack


def momentum_checkpoints(layers: list[nn.Module]) -> Stack:
    """MoCapsNet's stack with a checkpoint for each block; nothing is inverted, so float32 is enough."""
    from torch.utils.checkpoint import checkpoint

    def stack(x: Tensor) -> Tensor:
        velocity = torch.zeros_like(x)
        for k in range(0, len(layers), 2):
            pair = partial(momentum_layers, layers[k : k + 2], GAMMA)
            x, velocity = checkpoint(pair, x, velocity, use_reentrant=False)
        return x

    return stack


def momentumnet(layers: list[nn.Module], gamma: float = GAMMA) -> Stack:
    """The package momentumnet of Sander et al. (2021): float32 capsules and an integer velocity."""
    from momentumnet import MomentumNet

    return MomentumNet(layers, gamma=gamma, init_speed=False, use_backprop=False)


STACKS: dict[str, Callable[[list[nn.Module]], Stack]] = {
    "CapsNet": lambda layers: nn.Sequential(*layers),
    "ResCapsNet": ResidualCapsules,
    "MoCapsNet": partial(MomentumCapsules, gamma=GAMMA),
    "MoCapsNet, autograd": momentum_autograd,
    "ResCapsNet, recomputed": residual_recomputed,
    "ResCapsNet, checkpoint": residual_checkpoints,
    "MoCapsNet, checkpoint": momentum_checkpoints,
    "momentumnet": momentumnet,
}
INFERENCE = (*MODELS, "momentumnet")  # without gradients the other stacks equal one of these
DEPTH_NETWORKS = (*MODELS, *(f"{name}{STORED}" for name in MODELS), f"ResCapsNet{RECOMPUTED}")
NAMES = tuple(dict.fromkeys((*STACKS, *DEPTH_NETWORKS)))
DEPTH_COLUMNS: Columns = {
    "blocks": ("", "pairs of hidden capsule layers; none in a line about each block"),
    "saved": SAVED,
    "states": ("B", "weights, gradients and Adam's two moments"),
    "states_and_saved": ("B", "sum of states and saved"),
    "peak": STEP_PEAK,
    "gpu_used": ("B", "GPU memory in use after a step, kernels and reserved memory included"),
    **TIMING_COLUMNS,
    "times_residual": ("times", "median over ResCapsNet's median"),
    "inference": ("s", "median of the forward pass alone, in inference mode"),
    "inference_residual": ("times", "inference over ResCapsNet's inference"),
    "non_finite": ("", "weights that are not finite after two training steps"),
}
RATIOS = {"times_residual": "median", "inference_residual": "inference"}
SLOPES = ("saved", "states", "states_and_saved", "peak", "median", "inference")


def measure_depth(
    cases: Iterable[str] = (),
    *,
    blocks: Iterable[int] = BLOCKS,
    image_shape: tuple[int, int, int] = IMAGE_SHAPE,
    batch: int = 128,
    rounds: int = 10,
    only: Iterable[str] = (),
    device: str = "cpu",
    seed: int = 0,
    progress: bool = False,
) -> Bench:
    """Measure what each block of hidden capsules adds to memory and time.

    Networks: the tensors saved for backward and the memory of a training step, at every depth; the time of inference,
    at the smallest and the largest depth. Stacks, the hidden capsule layers alone: memory, and the time of forward and
    backward pass. All stacks share weights and inputs, and the stacks of all depths take turns. A line "each block"
    holds least-squares slopes over the depths.

    Args:
        cases: "network" or "stack"; none for both.
        blocks: depths, each >= 1.
        image_shape: (C, H, W) of the networks' images.
        batch: B, the images or inputs of a batch, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `NAMES`; none for all.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that does not exist.
    """
    unavailable_backend(device)
    depths = sorted(set(whole_numbers("blocks", blocks)))
    image_shape = whole_numbers("image_shape", image_shape, 3)
    settings = whole_settings(blocks=len(depths), batch=batch, rounds=rounds, seed=seed)
    _, batch, rounds, seed = settings.values()
    run = _Run(select(only, NAMES, "name"), depths, image_shape, batch, rounds, device, seed, progress)
    lines = []
    for case in select(cases, ("network", "stack"), "case"):
        measured = run.networks() if case == "network" else run.stacks()
        names = dict.fromkeys(line["name"] for line in measured)
        lines += measured + [_slopes(case, name, measured) for name in names]
    _write_ratios(lines)
    lists = {"blocks": depths, "image_shape": list(image_shape)}
    return Bench.from_lines("depth", DEPTH_COLUMNS, lines, device, **settings | lists, gamma=GAMMA)


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The least-squares slope of y over x; None where all x are equal.

    >>> slope([1, 2, 3], [5.0, 7.0, 9.0])
    2.0
    """
    centred = [value - sum(x) / len(x) for value in x]
    square = sum(value**2 for value in centred)
    return sum(a * (b - y[0]) for a, b in zip(centred, y, strict=True)) / square if square else None


@dataclass(frozen=True)
class _Run:
    """The arguments of a measurement, and its two cases."""

    names: list[str]
    depths: list[int]
    image_shape: tuple[int, int, int]
    batch: int
    rounds: int
    device: str
    seed: int
    progress: bool

    def networks(self) -> list[dict[str, Any]]:
        """The lines of whole networks."""
        lines: list[dict[str, Any]] = []
        names = [name for name in self.names if name in DEPTH_NETWORKS]
        for blocks in progress_bar(self.depths, "network", shown=self.progress):
            measured = {name: self.network(name, blocks) for name in names}
            if blocks in (self.depths[0], self.depths[-1]):  # inference of a whole network takes a second
                for name, timing in self.time_networks(blocks).items():
                    measured[name]["inference"] = timing.median
            lines += measured.values()
        return lines

    def network(self, name: str, blocks: int) -> dict[str, Any]:
        """The memory of a network and of its training step."""
        model = build_depth_network(name, blocks, self.image_shape, self.seed).to(self.device)
        images, _, labels = random_batch(self.image_shape, self.batch, self.device, self.seed)
        line = empty_line(DEPTH_COLUMNS, _label("network", blocks), name)
        line["blocks"], line["states"] = blocks, 4 * sum(p.nbytes for p in model.parameters())
        existing = (images, labels, *model.parameters())
        line["saved"] = saved_bytes(partial(model, images, labels), ignore=existing)
        line["states_and_saved"] = line["states"] + line["saved"]
        if on_gpu := torch.device(self.device).type == "cuda":
            torch.cuda.empty_cache()  # of the networks before
        step = make_step(model, self.batch, self.seed)
        line["peak"] = peak_memory.peak_of_step(model, step, self.device)
        line["non_finite"] = sum(int((~p.isfinite()).sum()) for p in model.parameters())
        if on_gpu:
            free, total = torch.cuda.mem_get_info(self.device)
            line["gpu_used"] = total - free
        return line

    def time_networks(self, blocks: int) -> Timings:
        """The time of inference; networks that differ only in what they save have the same."""
        images = random_batch(self.image_shape, self.batch, self.device, self.seed)[0]
        functions = {}
        for name in self.names:
            if name in MODELS:
                model = build_depth_network(name, blocks, self.image_shape, self.seed).to(self.device)
                functions[name] = partial(_infer, model, images)
        progress = f"{_label('network', blocks)}, inference" if self.progress else None
        return time_interleaved(functions, rounds=self.rounds, device=self.device, progress=progress)

    def stacks(self) -> list[dict[str, Any]]:
        """The lines of stacks, and at the end the times of all of them."""
        x, g, layers = hidden_layers(self.batch, 2 * self.depths[-1], self.device, self.seed)
        lines, turns = [], {}
        for blocks in self.depths:
            weights = [layer.weight for layer in layers[: 2 * blocks]]
            for name in [name for name in self.names if name in STACKS]:
                lines.append(line := empty_line(DEPTH_COLUMNS, _label("stack", blocks), name))
                line["blocks"], line["states"] = blocks, 4 * sum(weight.nbytes for weight in weights)
                try:
                    stack = STACKS[name](list(layers[: 2 * blocks]))
                    turn = partial(_round, stack, x, g, weights)
                    line["peak"] = line["states"] * 3 // 4 + peak_bytes(turn, self.device).peak
                    line["saved"] = saved_bytes(partial(stack, x), ignore=(x, *weights))
                    line["states_and_saved"] = line["states"] + line["saved"]
                except Exception as error:  # as in `time_interleaved`: not installed, too little memory
                    line["failure"] = format_error(error)
                    continue
                turns[f"{blocks} {name}"] = turn
                if name in INFERENCE:
                    turns[f"{blocks} {name} inference"] = partial(_infer, stack, x)
        progress = "stack" if self.progress else None
        timings = time_interleaved(turns, rounds=self.rounds, device=self.device, progress=progress)
        for line in lines:
            _write_times(line, f"{line['blocks']} {line['name']}", timings)
        return lines


def _write_times(line: dict[str, Any], key: str, timings: Timings) -> None:
    line["failure"] = line["failure"] or timings.errors.get(key)
    if key in timings:
        line |= quartiles(timings[key])
    if f"{key} inference" in timings:
        line["inference"] = timings[f"{key} inference"].median


def _slopes(case: str, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    line = empty_line(DEPTH_COLUMNS, f"{case}, each block", name)
    for figure in SLOPES:
        known = [x for x in lines if x["name"] == name and x[figure] is not None]
        line[figure] = slope([x["blocks"] for x in known], [x[figure] for x in known])
    return line


def _write_ratios(lines: list[dict[str, Any]]) -> None:
    """Write figures over those of ResCapsNet in the same case, where both are positive: slopes may be noise."""
    residual = {line["case"]: line for line in lines if line["name"] == "ResCapsNet"}
    for line in lines:
        reference = residual.get(line["case"], {})
        for column, figure in RATIOS.items():
            if (line[figure] or 0) > 0 and (reference.get(figure) or 0) > 0:
                line[column] = line[figure] / reference[figure]


def _label(case: str, blocks: int) -> str:
    return f"{case}, {blocks} block{'s' if blocks > 1 else ''}"


def build_depth_network(name: str, blocks: int, image_shape: tuple[int, int, int], seed: int) -> CapsNet:
    """A network of `DEPTH_NETWORKS`; networks of one class and depth have the same initial weights."""
    kind = name.partition(",")[0]
    backend = "eager" if name.endswith(STORED) else "auto"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sizes = {"image_shape": image_shape, "blocks": blocks, "backend": backend, **MODELS[kind]}
        model = cast(CapsNet, models.build(kind, **sizes))
    for layer in model.capsule_layers:
        layer.save = "inputs" if name.endswith(RECOMPUTED) else "sums"
    return model


def hidden_layers(
    batch: int, count: int, device: str, seed: int
) -> tuple[Tensor, Tensor, Sequence[RoutingCapsules]]:
    """Input capsules, the gradient of the outputs, and hidden capsule layers that stacks share."""
    I, D, J, E = LAYER_SIZES["hidden layer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, g = squash(torch.randn(batch, I, D)), torch.randn(batch, J, E)
        layers = nn.ModuleList(RoutingCapsules(I, D, J, E) for _ in range(count)).to(device)
    return x.to(device).requires_grad_(), g.to(device), cast(Sequence[RoutingCapsules], layers)


def _round(stack: Stack, x: Tensor, g: Tensor, weights: list[nn.Parameter]) -> None:
    """Forward and backward pass; the gradients are None before and after it."""
    try:
        stack(x).backward(g)
    finally:
        for tensor in (x, *weights):
            tensor.grad = None


def _infer(function: Callable[[Tensor], object], x: Tensor) -> None:
    with torch.inference_mode():
        function(x)
