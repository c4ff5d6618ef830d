"""Checks for the exercises of chapter 14, *Capsules on big shoulders*."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, compare_tensors, random_tensor

B, J, C, SIDE = 2, 3, 4, 5  # all different, so that a mixed-up axis shows in the shape


def side(answer: Callable[[int], int]) -> Verdict:
    """Check the side of the feature map that the AlexNet-like backbone computes from an image.

    Args:
        answer: function of the side n of the image, in pixels, that returns the side of the feature map.

    Returns:
        The verdict.

    >>> side(lambda n: (n - 7) // 4 + 1)
    ✗ Not yet. That is the map after the first convolution. The pooling comes after it.
    """
    mistakes: dict[str, Callable[..., float]] = {
        "That is the map after the first convolution. The pooling comes after it.": lambda n: (n - 7) // 4 + 1,
        "Padding adds 2 pixels on each side, 4 in all, before the convolution.":
            lambda n: ((n - 11) // 4 - 2) // 2 + 1,
        "Padding is on both sides: it adds 2 twice.": lambda n: ((n - 9) // 4 - 2) // 2 + 1,
        "The pooling's window is 3 wide: it fits (side - 3) // 2 + 1 times, not side // 2 times.":
            lambda n: ((n - 7) // 4 + 1) // 2,
        "A window either fits or it does not: divide whole numbers with //.": lambda n: ((n - 7) / 4 - 2) / 2 + 1,
    }  # fmt: skip
    cases = [(n,) for n in (15, 28, 32, 64, 225)]
    praise = "A window of k pixels with stride s fits (n + 2 padding - k) // s + 1 times, here for conv and pooling."
    advice = "Begin with the first convolution alone: how often do 11 pixels with step 4 fit into n + 4?"
    return check_function(answer, lambda n: ((n - 7) // 4 - 2) // 2 + 1, mistakes, cases, praise, advice)


def head_parameters(answer: Callable[[int, int, int, int, int, int, int], int]) -> Verdict:
    """Check the number of parameters of a capsule head.

    Args:
        answer: function of C, types, D, kernel, places, J and E: channels of the feature map, capsule types, numbers
            in a primary capsule, side of the kernel, positions of the kernel, classes, numbers in a class capsule.

    Returns:
        The verdict.

    >>> head_parameters(lambda C, types, D, kernel, places, J, E: types * places * J * E * D).message
    'Those are the transformation matrices. The convolution that makes the primary capsules has weights too.'
    """

    def convolution(C: int, types: int, D: int, kernel: int, *_: int) -> int:
        return types * D * (C * kernel**2 + 1)

    def matrices(C: int, types: int, D: int, kernel: int, places: int, J: int, E: int) -> int:
        return types * places * J * E * D

    mistakes: dict[str, Callable[..., float]] = {
        "Those are the transformation matrices. The convolution that makes the primary capsules has weights too.":
            matrices,
        "That is the convolution. Each pair of capsules has a matrix as well.": convolution,
        "Each channel of a convolution has a bias.":
            lambda C, types, D, *more: convolution(C, types, D, *more) - types * D + matrices(C, types, D, *more),
        "A kernel is square: kernel * kernel numbers for each pair of channels.":
            lambda C, types, D, kernel, *more: types * D * (C * kernel + 1) + matrices(C, types, D, kernel, *more),
        "That would be one matrix for each type. Here every place has matrices of its own.":
            lambda *given: convolution(*given) + matrices(*given) // given[4],
        "A convolution has the same weights at every place: only the matrices count places.":
            lambda *given: given[4] * convolution(*given) + matrices(*given),
    }  # fmt: skip
    cases = [(4, 3, 2, 5, 6, 7, 8), (256, 32, 8, 1, 4, 10, 16), (32, 16, 8, 9, 81, 10, 16)]
    praise = (
        "A convolution, and a matrix of E x D for every pair of capsules. Routing itself has no parameters."
    )
    advice = "Count the convolution first (its weights and its biases), then the matrices W_ij."
    return check_function(answer, lambda *n: convolution(*n) + matrices(*n), mistakes, cases, praise, advice)


def residual_block(answer: Callable[[Tensor, Callable[[Tensor], Tensor]], Tensor]) -> Verdict:
    r"""Check a residual block, :math:`y = \max(0, x + F(x))`.

    Args:
        answer: function of a feature map `[B, C, H, W]` and its branch F that returns a feature map.

    Returns:
        The verdict.

    >>> residual_block(lambda x, branch: torch.relu(x + branch(x))).right
    True
    """
    x, branch = random_tensor(B, C, SIDE, SIDE), torch.sin
    result = call_answer(answer, x, branch)
    mistakes = {
        "The last step is missing: a ReLU after the sum.": x + branch(x),
        "That is the branch alone. Where is the shortcut?": torch.relu(branch(x)),
        "The ReLU belongs after the sum: with a ReLU before it the branch could only ever add.":
            x + torch.relu(branch(x)),
        "The branch must be given x, not the branch's own output.": torch.relu(x + branch(branch(x))),
    }  # fmt: skip
    praise = "If the branch is near zero, the block is near the identity (for x >= 0)."
    return compare_tensors(result, torch.relu(x + branch(x)), mistakes, praise, "[B, C, H, W]")


def as_capsules(answer: Callable[[Tensor], Tensor]) -> Verdict:
    """Check a linear head's scores in the shape of capsules.

    Args:
        answer: function of the sums `[B, J]` that returns capsules `[B, J, 1]`, whose lengths are the sigmoids of the
            sums.

    Returns:
        The verdict.

    >>> as_capsules(lambda sums: sums.sigmoid()[:, :, None]).right
    True
    """
    sums = random_tensor(B, J)
    result = call_answer(answer, sums)
    scores = sums.sigmoid()
    mistakes = {
        "The numbers are right. A capsule is a vector, even if of one number: an axis is missing.": scores,
        "The new axis is the last one, E: one number for each class, not one class.": scores[:, None, :],
        "The softmax divides one unit among the classes. A sigmoid scores each class alone.": (
            sums.softmax(1)[:, :, None]
        ),
        "A length is not negative, and these numbers may be: put them through a sigmoid.": sums[:, :, None],
        "The length of tanh is large for large negative sums as well.": sums.tanh()[:, :, None],
    }
    praise = "One positive number is its own length: losses, evaluation and figures accept such capsules unchanged."
    return compare_tensors(result, scores[:, :, None], mistakes, praise, "[B, J, 1]")
