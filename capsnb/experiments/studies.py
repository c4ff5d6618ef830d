"""Studies: questions of our own, each a list of runs that was written down before anything was trained.

Their answers are in chapters 6, 7, 8, 12 and 14.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from capsnb.experiments import recipes
from capsnb.experiments.papers import TRAINABLE_STD, in_small
from capsnb.experiments.run import Run
from capsnb.losses import Classification
from capsnb.training import TrainConfig
from capsnb.training.config import OptimizerName

FORTY_LAYERS_RATE = 1e-4


def _quick(
    study: str, label: str, model: str, seeds: int = 3, optimizer: OptimizerName = "adam", **sizes: Any
) -> Iterator[Run]:
    for seed in range(seeds):
        config = replace(recipes.NARROW_QUICK, seed=seed, optimizer=optimizer)
        yield Run(study, label, model, recipes.NARROW | sizes, config, preprocess=recipes.ROTATED)


def _blocks(count: int) -> str:
    return f"{count} block{'s' * (count > 1)}"


def depth() -> Iterator[Run]:
    """Does depth hurt? Networks with 1 to 8 blocks on 5,000 digits: a quick form of the paper's table 1.

    Weights are drawn from N(0, 0.3^2): small ones learn faster, and with shortcuts capsules keep their
    length. Without shortcuts they need larger weights; so networks that begin from the identity have the default ones.
    """
    for blocks in range(1, 9):
        sizes: dict[str, Any] = {"blocks": blocks, "weight_std": 0.3}
        for model in ("ResCapsNet", "MoCapsNet"):
            yield from _quick("depth", f"{model}, {_blocks(blocks)}", model, **sizes)
        label = f"CapsNet from the identity, {_blocks(blocks)}"
        yield from _quick("depth", label, "CapsNet", blocks=blocks, identity=2.0)
        yield from _quick("depth", f"CapsNet, {_blocks(blocks)}", "CapsNet", **sizes)


def collapse() -> Iterator[Run]:
    """Why do ten capsule layers without shortcuts learn nothing? Four blocks, and one thing changed at a time."""
    four: dict[str, Any] = {"blocks": 4}
    changes: dict[str, dict[str, Any]] = {
        "the paper's weights": {"weight_std": 0.01},
        "weights that keep lengths": {},
        "weights that keep lengths, R = 1": {"iterations": 1},
        "from the identity": {"identity": 2.0},
        "from the identity, R = 1": {"identity": 3.0, "iterations": 1},
    }
    for label, change in changes.items():
        yield from _quick("collapse", f"CapsNet, {label}", "CapsNet", **four | change)
    for model in ("ResCapsNet", "MoCapsNet"):
        yield from _quick("collapse", f"{model}, the paper's weights", model, **four, weight_std=0.01)


def routings() -> Iterator[Run]:
    """Does it matter how capsules agree? Each kind from weights with which CapsNet's training loss falls fast."""
    for routing, weight_std in (("rba", 0.1), ("sda", None), ("em", None)):
        sizes: dict[str, Any] = {"routing": routing, "weight_std": weight_std}
        yield from _quick("routings", f"CapsNet, {routing.upper()}", "CapsNet", **sizes)
        yield from _quick(
            "routings", f"ResCapsNet 1 block, {routing.upper()}", "ResCapsNet", blocks=1, **sizes
        )


def optimizers() -> Iterator[Run]:
    """Does Ranger21 help, and does it matter with which routing? A quick form of MoCapsNet's table 3.

    Both follow the same learning rates, those of the other studies.
    """
    for routing, weight_std in (("rba", 0.1), ("sda", None)):
        optimizers: tuple[OptimizerName, ...] = ("adam", "ranger21")
        for optimizer in optimizers:
            for model in ("ResCapsNet", "MoCapsNet"):
                label = f"{model} 1 block, {optimizer.capitalize()}, {routing.upper()}"
                sizes: dict[str, Any] = {"routing": routing, "weight_std": weight_std, "blocks": 1}
                yield from _quick("optimizers", label, model, optimizer=optimizer, **sizes)


def head_ablation() -> Iterator[Run]:
    """Does the capsule head help at all? Each backbone with capsules, and with a linear head that replaces them.

    With the margin loss the linear head changes one thing, capsules. With the cross-entropy it is the
    usual classifier, the baseline to beat.
    """
    changes: dict[str, tuple[dict[str, Any], Classification]] = {
        "capsules": ({}, "margin"),
        "linear head, margin loss": ({"head": "sigmoid"}, "margin"),
        "linear head, cross-entropy": ({"head": "softmax"}, "cross_entropy"),
    }
    for recipe in recipes.QUICK.values():
        for label, (head, loss) in changes.items():
            for seed in range(3):
                config = replace(recipe.config, seed=seed, loss=loss)
                what = "head-ablation", f"{recipe.model}, {label}", recipe.model, recipe.sizes | head
                yield Run(*what, config, preprocess=recipe.preprocess_changes)


def laptop() -> Iterator[Run]:
    """How far do two cores get on all of MNIST? Our recipes, a few hours at most."""
    for label, recipe in recipes.FULL.items():
        for seed in range(3):
            config = replace(recipe.config, seed=seed)
            what = "laptop", label, recipe.model, recipe.sizes
            yield Run(*what, config, "mnist", recipe.preprocess_changes)


def best() -> Iterator[Run]:
    """How good can MoCapsNet get? At full width, with our recipe instead of the paper's."""
    for data, recipe in recipes.BEST.items():
        for seed in range(3):
            config = replace(recipe.config, seed=seed)
            label = f"{recipes.DATA[data]}, {recipe.model}, 1 block"
            yield Run("best", label, recipe.model, recipe.sizes, config, data, recipe.preprocess_changes)


def one_per_cent() -> Iterator[Run]:
    """Why 1 % on CIFAR-100? Full width and the published code's settings, and one thing changed at a time.

    They are: a learning rate of 1e-4, pixels in [-1, 1], the sum of the images' losses. The decoder's target stays in
    [0, 1], where a sigmoid can reach it.
    """
    config = TrainConfig(epochs=60, learning_rate=1e-4, reduction="sum")
    pixels = {"standardise": False, "signed": True}
    by_label: dict[str, tuple[str, int, float | None]] = {
        "ResCapsNet": ("ResCapsNet", 3, 0.01),
        "MoCapsNet as published": ("PublishedMoCapsNet", 3, 0.01),
        "ResCapsNet, doubled": ("DoubledResCapsNet", 3, 0.01),
        "MoCapsNet": ("MoCapsNet", 3, 0.01),
        "ResCapsNet, default weights": ("ResCapsNet", 3, None),
        "MoCapsNet, default weights": ("MoCapsNet", 3, None),
        "MoCapsNet as published, 1 block": ("PublishedMoCapsNet", 1, 0.01),
        "MoCapsNet as published, 8 blocks": ("PublishedMoCapsNet", 8, 0.01),
    }
    for label, (model, blocks, weight_std) in by_label.items():
        for seed in range(3):
            what = "one-per-cent", label, model, {"blocks": blocks, "weight_std": weight_std}
            yield Run(*what, replace(config, seed=seed), "cifar100", pixels)


def forty_layers() -> Iterator[Run]:
    """Do twenty blocks train? The paper's 40 hidden layers, on CIFAR-10 instead of SVHN.

    The learning rate is that of the published scripts, 1e-4.
    """
    for model in ("MoCapsNet", "ResCapsNet"):
        for seed in range(3):
            config = TrainConfig(epochs=60, learning_rate=FORTY_LAYERS_RATE, seed=seed)
            sizes: dict[str, Any] = {"blocks": 20, "weight_std": TRAINABLE_STD}
            yield Run("forty-layers", model, model, sizes, config, "cifar10")


def forty_layers_quick() -> Iterator[Run]:
    """Do twenty blocks train? In small."""
    for run in forty_layers():
        yield in_small(run, "forty-layers-quick", FORTY_LAYERS_RATE)


STUDIES: dict[str, Callable[[], Iterator[Run]]] = {
    "depth": depth,
    "collapse": collapse,
    "routings": routings,
    "optimizers": optimizers,
    "head-ablation": head_ablation,
    "laptop": laptop,
    "best": best,
    "one-per-cent": one_per_cent,
    "forty-layers": forty_layers,
    "forty-layers-quick": forty_layers_quick,
}
