"""Recipes: all that decides how a network is trained, by name. Used in chapter 14 and in the studies.

`PAPER` is what Zain and Umar (2025) write down. `QUICK` and `FULL` are ours, for 5,000 digits in a minute on two cores,
and for all of MNIST in half an hour there; `BEST` is ours for a GPU.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import Any

from capsnb.preprocess import Preprocess, all_settings
from capsnb.training import TrainConfig

DATA = {"mnist": "MNIST", "svhn": "SVHN", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
# The networks of chapter 4, with hidden capsules as in the paper: a laptop trains them in a minute.
NARROW: dict[str, Any] = {"channels": 32, "capsule_types": 4}
ROTATED: dict[str, Any] = {"rotate": 10.0}  # degrees; 4,000 images are few
NARROW_QUICK = TrainConfig(epochs=8, batch_size=64, learning_rate=4e-3, schedule="one_cycle")
_DEFAULT = all_settings({})


@dataclass(frozen=True)
class Recipe:
    """A network, what it sees, and how it learns.

    Attributes:
        model: name of a class in `capsnb.models`.
        config: how it is trained.
        preprocess: what happens to the images.
        sizes: arguments of the network that are not its defaults.
    """

    model: str
    config: TrainConfig
    preprocess: Preprocess
    sizes: dict[str, Any] = field(default_factory=dict)

    @property
    def preprocess_changes(self) -> dict[str, Any]:
        """What is not the default of `Preprocess`, as a `Run` keeps it."""
        return {name: value for name, value in asdict(self.preprocess).items() if value != _DEFAULT[name]}


# On one GPU. "Standardised to zero mean and unit variance" is read as: each image for itself. The paper gives 20 to 50
# epochs and reports accuracies after 10 and 20.
_ONE_GPU = TrainConfig(
    epochs=20,
    batch_size=32,
    learning_rate=1e-3,
    optimizer="adam",
    schedule="step",
    decay=0.7,
    step_epochs=2,
    loss="margin",
)
_MANY_GPUS = replace(_ONE_GPU, accumulate=4, precision="fp16")  # 32 images on each GPU
_STANDARDISED = Preprocess(pad=0, rotate=10.0, standardise=True)
_STRETCHED = Preprocess(pad=0, rotate=10.0, resize=78, standardise=False)
_THREE = {"iterations": 3}

PAPER: dict[tuple[str, str], Recipe] = {
    ("AlexCapsNet", "single-gpu"): Recipe("AlexCapsNet", _ONE_GPU, _STANDARDISED, _THREE),
    ("AlexCapsNet", "multi-gpu"): Recipe("AlexCapsNet", _MANY_GPUS, _STANDARDISED, _THREE),
    ("ResNetCapsNet", "single-gpu"): Recipe("ResNetCapsNet", _ONE_GPU, _STRETCHED, _THREE),
    ("ResNetCapsNet", "multi-gpu"): Recipe("ResNetCapsNet", _MANY_GPUS, _STRETCHED, _THREE),
}

# For a small data set: one learning-rate cycle, and another view of each image in each epoch.
QUICK: dict[str, Recipe] = {
    "AlexCapsNet": Recipe(
        "AlexCapsNet",
        TrainConfig(epochs=16, batch_size=64, learning_rate=1e-3, schedule="one_cycle"),
        Preprocess(pad=1, rotate=15.0),
    ),
    "ResNetCapsNet": Recipe(
        "ResNetCapsNet",
        TrainConfig(epochs=5, batch_size=32, learning_rate=3e-3, schedule="one_cycle"),
        # Kernels of 9 pixels with stride 8 fill 25 pixels; of 28, three would be left over.
        Preprocess(pad=1, rotate=10.0, resize=25, standardise=False),
    ),
}
FULL: dict[str, Recipe] = {
    "AlexCapsNet": Recipe(
        "AlexCapsNet",
        TrainConfig(epochs=20, batch_size=128, learning_rate=2e-3, schedule="one_cycle"),
        Preprocess(rotate=15.0),
    ),
    # Four by four places in place of two by two: at the paper's size this network does not fit the training images.
    "AlexCapsNet, 44 pixels": Recipe(
        "AlexCapsNet",
        TrainConfig(epochs=8, batch_size=64, learning_rate=1.5e-3, schedule="one_cycle"),
        Preprocess(rotate=10.0, resize=44),
    ),
    "ResNetCapsNet": Recipe(
        "ResNetCapsNet",
        TrainConfig(epochs=12, batch_size=64, learning_rate=3e-3, schedule="one_cycle"),
        Preprocess(rotate=10.0, resize=25, standardise=False),
    ),
    "MoCapsNet": Recipe(
        "MoCapsNet",
        TrainConfig(epochs=12, batch_size=128, learning_rate=4e-3, schedule="one_cycle"),
        Preprocess(rotate=10.0),
        NARROW | {"blocks": 1, "weight_std": 0.3},
    ),
}

# At full width, for a GPU; not tried yet. The crop is the papers', and CIFAR-10 has no augmentation besides.
_WIDE: dict[str, Any] = {"blocks": 1, "weight_std": 0.3}
BEST: dict[str, Recipe] = {
    "mnist": Recipe(
        "MoCapsNet",
        TrainConfig(epochs=30, batch_size=128, learning_rate=2e-3, schedule="one_cycle"),
        Preprocess(rotate=10.0),
        _WIDE,
    ),
    "cifar10": Recipe(
        "MoCapsNet",
        TrainConfig(epochs=60, batch_size=128, learning_rate=2e-3, optimizer="adamw", schedule="one_cycle"),
        Preprocess(),
        _WIDE,
    ),
}
