"""What decides a training run besides the model and the data: optimizer, schedule, precision, and every number.

Taught in chapter 4, *A first CapsNet*.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args, get_origin, get_type_hints

import torch
from torch import nn

from capsnb.losses import Classification
from capsnb.values import LARGEST_SEED, finite_number, one_of, plain_fields, whole_number


def _ranger21(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer import Ranger21
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'optimizer="ranger21" comes from the package pytorch_optimizer, which is not installed: '
            "pip install pytorch_optimizer, or choose another optimizer"
        ) from None
    # The schedule is TrainConfig's, as for every optimizer; Ranger21's own would need to know the steps to come.
    return Ranger21(parameters, num_iterations=1, lr=lr, disable_lr_scheduler=True)


OptimizerName = Literal["adam", "adamw", "sgd", "ranger21"]
Schedule = Literal["constant", "exponential", "step", "cosine", "one_cycle"]
Precision = Literal["fp32", "tf32", "bf16", "fp16"]
OPTIMIZERS: dict[OptimizerName, Callable[..., torch.optim.Optimizer]] = {
    # fused: one pass over the weights, not ten
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
    "ranger21": _ranger21,
}
SCHEDULES: tuple[Schedule, ...] = get_args(Schedule)


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run besides the model and the data; saved with every result.

    The defaults are MoCapsNet's: Adam at 1e-3, decayed by 0.96 after each epoch, batches of 128. Each field is an
    option of `capsnb train`.

    Args:
        epochs: how often the training images are seen, >= 1.
        batch_size: B, >= 1; with several processes, of all of them together.
        learning_rate: the highest learning rate, > 0.
        optimizer: "adam", "adamw", "sgd" (with Nesterov's momentum of 0.9), or "ranger21" (Wright and Demeure 2021,
            from the package pytorch_optimizer; its own warm-up and warm-down are off, since `schedule` decides).
        schedule: how the learning rate falls: "constant", "exponential" (times `decay` after each epoch), "step"
            (times `decay` after every `step_epochs` epochs), "cosine" (to zero), "one_cycle" (up for the first 30 %
            of the run, then down to zero).
        decay: factor of the exponential and step schedules, in (0, 1].
        step_epochs: epochs between the steps of the step schedule, >= 1.
        reconstruction_weight: weight of the summed squared pixel error in the loss, >= 0.
        precision: "fp32", PyTorch's defaults, whatever the process has set: products in float32's precision, and on a
            GPU from Ampere on convolutions in TF32, whose factors are rounded to ten bits; "tf32", products in TF32 as
            well; "bf16"; or "fp16" (on a GPU, with loss scaling). Weights, routing and the loss are float32 in all of
            them.
        accumulate: batches whose gradients are averaged before one step of the optimizer, >= 1.
        compile: train through `torch.compile`; on a GPU the step's kernels are recorded once, as CUDA graphs. The first
            step takes longer; results agree with those without it up to rounding.
        graph: on a GPU, record a step once as a CUDA graph and replay it; numbers are the same without it. What cannot
            be recorded is computed kernel by kernel, after a warning: fp16, Ranger21, dropout, hooks, and networks in
            which the processor waits for the GPU. Python in a network's `forward` is not called in a replay. `compile`
            has graphs of its own.
        deterministic: on a GPU, use convolutions that give the same bits each time, and cuDNN's own choice among them;
            False leaves both as the process has set them.
        seed: decides order and augmentation of the images, 0 to 2**32 - 1.
        reduction: "mean" of the images' losses; or "sum", as in the published code of MoCapsNet, which is as many times
            as large as a batch has images. Adam's steps are the same, but for gradients near its epsilon, 1e-8. A
            history has the mean.
        loss: "margin", or "cross_entropy", see `capsnb.losses`; a history has either in its column `margin`.

    Raises:
        TypeError: a value of another type; NumPy numbers and tensors of one number are taken as numbers.
        ValueError: a value outside its range.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: OptimizerName = "adam"
    schedule: Schedule = "exponential"
    decay: float = 0.96
    step_epochs: int = 2
    reconstruction_weight: float = 5e-4
    precision: Precision = "fp32"
    accumulate: int = 1
    compile: bool = False
    graph: bool = True
    deterministic: bool = True
    seed: int = 0
    loss: Classification = "margin"
    reduction: Literal["mean", "sum"] = "mean"

    def __post_init__(self) -> None:
        plain_fields(self)
        for name in ("epochs", "batch_size", "step_epochs", "accumulate"):
            whole_number(name, getattr(self, name))
        finite_number("learning_rate", self.learning_rate, above=0)
        finite_number("decay", self.decay, above=0, at_most=1)
        finite_number("reconstruction_weight", self.reconstruction_weight, at_least=0)
        whole_number("seed", self.seed, at_least=0, at_most=LARGEST_SEED)
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if get_origin(hint) is Literal:
                one_of(name, value, get_args(hint))

    def learning_rate_at(self, t: float) -> float:
        """The learning rate after `t` epochs, 0 <= t <= epochs: a plain function, so a resumed run needs no state.

        Raises:
            ValueError: `t` outside its range.

        >>> TrainConfig(epochs=4, schedule="step", decay=0.5, learning_rate=1.0).learning_rate_at(2.5)
        0.5
        """
        t = finite_number("t", t, at_least=0, at_most=self.epochs)
        done = t / self.epochs
        factor = {
            "constant": lambda: 1.0,
            "exponential": lambda: self.decay ** int(t),
            "step": lambda: self.decay ** (int(t) // self.step_epochs),
            "cosine": lambda: _cosine(1, 0, done),
            "one_cycle": lambda: (
                _cosine(0.04, 1, done / 0.3) if done < 0.3 else _cosine(1, 0, (done - 0.3) / 0.7)
            ),
        }[self.schedule]
        return self.learning_rate * factor()


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2
