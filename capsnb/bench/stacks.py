"""What depth costs: memory and time of stacks that remember, of those that compute backwards, and of whole networks.

Used in chapters 13 and 17.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from capsnb import memory
from capsnb.bench.measurement import SECONDS, Bench, Columns, blank, chosen, elsewhere, finished, seconds
from capsnb.bench.steps import inputs, training_step
from capsnb.bench.ways import CASES
from capsnb.functional import squash
from capsnb.layers import RoutingCapsules
from capsnb.models import CapsNet, MoCapsNet, ResCapsNet
from capsnb.profiling import Comparison, compare, peak_bytes, said, saved_bytes
from capsnb.reversible import MomentumCapsules, ResidualCapsules

GAMMA = 0.9
BLOCKS = (1, 2, 3, 4, 5, 6, 7, 8, 20)  # the paper's, and its deepest
IMAGE_SHAPE = (1, 28, 28)
MODELS: dict[str, Callable[..., CapsNet]] = {
    "CapsNet": CapsNet,
    "ResCapsNet": ResCapsNet,
    "MoCapsNet": partial(MoCapsNet, gamma=GAMMA),
}
STORED, RECOMPUTED = ", votes stored", ", recomputed"

Stack = Callable[[Tensor], Tensor]  # x [B, J, E] -> [B, J, E]


def remembered(layers: list[nn.Module]) -> Stack:
    """MoCapsNet's recurrence with all that autograd remembers."""
    return MomentumCapsules(layers, GAMMA).forward_plain


def recomputed(layers: list[nn.Module]) -> Stack:
    """ResCapsNet's stack, whose layers keep what goes into them and nothing else."""
    lean = [copy.copy(layer) for layer in layers]  # the same weights
    for layer in lean:
        cast(RoutingCapsules, layer).save = "inputs"
    return ResidualCapsules(lean)


def residual_checkpoints(layers: list[nn.Module]) -> Stack:
    """ResCapsNet's stack, whose blocks of two layers are computed again from what went into them."""
    from torch.utils.checkpoint import checkpoint

    blocks = [ResidualCapsules(layers[k : k + 2]) for k in range(0, len(layers), 2)]

    def stack(x: Tensor) -> Tensor:
        for block in blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return x

    return stack


def momentum_checkpoints(layers: list[nn.Module]) -> Stack:
    """MoCapsNet's recurrence in blocks that are computed again; nothing is undone, so float32 will do."""
    from torch.utils.checkpoint import checkpoint

    def block(pair: list[nn.Module], x: Tensor, velocity: Tensor) -> tuple[Tensor, Tensor]:
        for layer in pair:
            velocity = GAMMA * velocity + (1 - GAMMA) * layer(x)
            x = x + velocity
        return x, velocity

    def stack(x: Tensor) -> Tensor:
        velocity = torch.zeros_like(x)
        for k in range(0, len(layers), 2):
            x, velocity = checkpoint(block, layers[k : k + 2], x, velocity, use_reentrant=False)
        return x

    return stack


def momentumnet(layers: list[nn.Module], gamma: float = GAMMA) -> Stack:
    """The package momentumnet of Sander et al. (2021): float32 capsules, and a velocity of whole numbers."""
    from momentumnet import MomentumNet

    return MomentumNet(layers, gamma=gamma, init_speed=False, use_backprop=False)


STACKS: dict[str, Callable[[list[nn.Module]], Stack]] = {
    "CapsNet": lambda layers: nn.Sequential(*layers),
    "ResCapsNet": ResidualCapsules,
    "MoCapsNet": partial(MomentumCapsules, gamma=GAMMA),
    "MoCapsNet, remembered": remembered,
    "ResCapsNet, recomputed": recomputed,
    "ResCapsNet, checkpoint": residual_checkpoints,
    "MoCapsNet, checkpoint": momentum_checkpoints,
    "momentumnet": momentumnet,
}
INFERRED = (
    "CapsNet",
    "ResCapsNet",
    "MoCapsNet",
    "momentumnet",
)  # without gradients the others are one of these
NETWORKS = (*MODELS, *(f"{name}{STORED}" for name in MODELS), f"ResCapsNet{RECOMPUTED}")
NAMES = tuple(dict.fromkeys((*STACKS, *NETWORKS)))
COLUMNS: dict[str, Columns] = {
    "depth": {
        "blocks": ("", "pairs of hidden capsule layers; none where a line says what each block adds"),
        "saved": ("B", "kept for the backward pass besides inputs and weights"),
        "states": ("B", "weights, gradients and Adam's two moments"),
        "accounted": ("B", "states and what is saved"),
        "peak": ("B", "highest point of a step: weights, gradients, Adam's moments, and what comes and goes"),
        "device": (
            "B",
            "taken on the GPU by all that runs there, kernels and reserves included, after a step",
        ),
        **SECONDS,
        "times_residual": ("times", "median over ResCapsNet's median"),
        "inference": ("s", "median of the forward pass alone, in inference mode"),
        "inference_residual": ("times", "inference over ResCapsNet's inference"),
        "broken": ("", "weights that are not finite after two training steps"),
    },
}
RATIOS = {"times_residual": "median", "inference_residual": "inference"}
ADDED = ("saved", "states", "accounted", "peak", "median", "inference")


def depth(
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

    Of networks: what is kept for the way back and the memory of a training step, at every depth; at the shallowest and
    the deepest also the time of inference. Of stacks, which are the hidden capsule layers between capsules and
    a gradient from above: memory, and the time of forward and backward pass. All stacks share weights and inputs, and
    take turns at all depths. A line "each block" holds the slopes of least squares over the depths.

    Args:
        cases: "network" or "stack"; none for both.
        blocks: depths, each >= 1.
        image_shape: (C, H, W) of the networks' images.
        batch: B, >= 1.
        rounds: timed rounds, >= 1.
        only: names in `NAMES`; none for all.
        device: "cpu" or "cuda".
        seed: of weights, inputs and gradients.
        progress: show progress bars.

    Returns:
        The measurement.

    Raises:
        ValueError: an unknown name, a number below 1, or a device that is not there.
    """
    elsewhere(device)
    names, depths = chosen(only, NAMES, "name"), sorted(set(blocks))
    for name, smallest in (("batch", batch), ("rounds", rounds), ("blocks", min(depths, default=0))):
        if smallest < 1:
            raise ValueError(f"{name} must be 1 or more, got {smallest}")
    lines = []
    for case in chosen(cases, ("network", "stack"), "case"):
        if case == "network":
            measured = _networks(names, depths, image_shape, batch, rounds, device, seed, progress)
        else:
            measured = _stacks(names, depths, batch, rounds, device, seed, progress)
        lines += measured + [_each_block(case, name, measured) for name in _names(measured)]
    for line in lines:
        reference = [x for x in lines if x["case"] == line["case"] and x["name"] == "ResCapsNet"]
        for column, figure in RATIOS.items():
            if (
                reference and (line[figure] or 0) > 0 and (reference[0][figure] or 0) > 0
            ):  # slopes may be noise
                line[column] = line[figure] / reference[0][figure]
    return finished(
        "depth",
        COLUMNS["depth"],
        lines,
        device,
        batch=batch,
        blocks=depths,
        image_shape=list(image_shape),
        rounds=rounds,
        seed=seed,
        gamma=GAMMA,
    )


def slope(x: Sequence[float], y: Sequence[float]) -> float | None:
    """How much y grows when x grows by one, by least squares; None where x is always the same.

    >>> slope([1, 2, 3], [5.0, 7.0, 9.0])
    2.0
    """
    away = [value - sum(x) / len(x) for value in x] if x else []
    square = sum(value**2 for value in away)
    return sum(a * (b - y[0]) for a, b in zip(away, y, strict=True)) / square if square else None


def _networks(
    names: list[str],
    depths: list[int],
    image_shape: tuple[int, int, int],
    batch: int,
    rounds: int,
    device: str,
    seed: int,
    progress: bool,
) -> list[dict[str, Any]]:
    from tqdm import tqdm

    lines = []
    ends = {depths[0], depths[-1]}  # inference of a whole network takes a second
    for blocks in tqdm(depths, desc="network", disable=not progress, leave=False):
        case, forwards = _label("network", blocks), {}
        images, _, labels = inputs(image_shape, batch, device, seed)
        for name in [name for name in names if name in NETWORKS]:
            model = _model(name, blocks, image_shape, seed).to(device)
            lines.append(line := blank(COLUMNS["depth"], case, name, {}))
            line["blocks"], line["states"] = blocks, 4 * sum(p.nbytes for p in model.parameters())
            known = (images, labels, *model.parameters())
            line["saved"] = saved_bytes(partial(model, images, labels), ignore=known)
            line["accounted"] = line["states"] + line["saved"]
            if on_gpu := torch.device(device).type == "cuda":
                torch.cuda.empty_cache()  # what other networks left behind
            step = training_step(model, batch, seed)
            line["peak"] = memory.highest(model, step, device)
            line["broken"] = sum(int((~p.isfinite()).sum()) for p in model.parameters())
            if on_gpu:
                free, there = torch.cuda.mem_get_info(device)
                line["device"] = there - free
            del step
            if blocks in ends:
                forwards[name] = partial(_infer, model, images)
        timed = {name: forward for name, forward in forwards.items() if name in MODELS}
        timings = compare(
            timed, rounds=rounds, device=device, progress=f"{case}, inference" if progress else None
        )
        for line in lines:
            if line["case"] == case and line["name"] in timings:
                line["inference"] = timings[line["name"]].median
    return lines


def _stacks(
    names: list[str], depths: list[int], batch: int, rounds: int, device: str, seed: int, progress: bool
) -> list[dict[str, Any]]:
    x, g, layers = _problem(batch, depths[-1], device, seed)
    lines, turns = [], {}
    for blocks in depths:
        weights = [layer.weight for layer in layers[: 2 * blocks]]
        for name in [name for name in names if name in STACKS]:
            lines.append(line := blank(COLUMNS["depth"], _label("stack", blocks), name, {}))
            line["blocks"], line["states"] = blocks, 4 * sum(weight.nbytes for weight in weights)
            try:
                stack = STACKS[name](list(layers[: 2 * blocks]))
                turn = partial(_round, stack, x, g, weights)
                line["peak"] = line["states"] * 3 // 4 + peak_bytes(turn, device).peak
                line["saved"] = saved_bytes(partial(stack, x), ignore=(x, *weights))
                line["accounted"] = line["states"] + line["saved"]
            except Exception as error:  # as in `compare`: not installed, too little memory
                line["failure"] = said(error)
                continue
            turns[f"{blocks} {name}"] = turn
            if name in INFERRED:
                turns[f"{blocks} {name} inference"] = partial(_infer, stack, x)
    timings = compare(turns, rounds=rounds, device=device, progress="stack" if progress else None)
    for line in lines:
        _write_times(line, f"{line['blocks']} {line['name']}", timings)
    return lines


def _write_times(line: dict[str, Any], key: str, timings: Comparison) -> None:
    line["failure"] = line["failure"] or timings.errors.get(key)
    if key in timings:
        line |= seconds(timings, key)
    if f"{key} inference" in timings:
        line["inference"] = timings[f"{key} inference"].median


def _each_block(case: str, name: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
    line = blank(COLUMNS["depth"], f"{case}, each block", name, {})
    for figure in ADDED:
        known = [x for x in lines if x["name"] == name and x[figure] is not None]
        line[figure] = slope([x["blocks"] for x in known], [x[figure] for x in known])
    return line


def _names(lines: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(line["name"] for line in lines))


def _label(case: str, blocks: int) -> str:
    return f"{case}, {blocks} block{'s' if blocks > 1 else ''}"


def _model(name: str, blocks: int, image_shape: tuple[int, int, int], seed: int) -> CapsNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MODELS[name.partition(",")[0]](image_shape, blocks=blocks)
    for layer in model.capsule_layers:
        layer.backend = "eager" if name.endswith(STORED) else layer.backend
        layer.save = "inputs" if name.endswith(RECOMPUTED) else "sums"
    return model


def _problem(
    batch: int, blocks: int, device: str, seed: int
) -> tuple[Tensor, Tensor, Sequence[RoutingCapsules]]:
    """Capsules, the gradient from above, and the layers that all stacks share, each as many of them as it needs."""
    I, D, J, E = CASES["hidden layer"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        x, g = squash(torch.randn(batch, I, D)), torch.randn(batch, J, E)
        layers = nn.ModuleList(RoutingCapsules(I, D, J, E) for _ in range(2 * blocks)).to(device)
    return x.to(device).requires_grad_(), g.to(device), cast(Sequence[RoutingCapsules], layers)


def _round(stack: Stack, x: Tensor, g: Tensor, weights: list[nn.Parameter]) -> None:
    """Forward and backward pass; no gradients are there before it or after it."""
    try:
        stack(x).backward(g)
    finally:
        for tensor in (x, *weights):
            tensor.grad = None


def _infer(function: Callable[[Tensor], object], x: Tensor) -> None:
    with torch.inference_mode():
        function(x)
