"""Checks for the exercises of chapter 7, *Shortcuts: residual capsules*."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from capsnb.checks import Verdict, call_answer, check_function, compare_tensors, random_tensor

B, J, E = 2, 3, 4  # all different, so that a mixed-up axis shows in the shape


def length_bound(answer: Callable[[int], float]) -> Verdict:
    """Check the bound on the length of a capsule after n residual layers.

    Args:
        answer: function of the number n of residual layers that returns the smallest upper bound on the length.

    Returns:
        Right, or what was overlooked.

    >>> length_bound(lambda n: n)
    ✗ Not yet. That counts what the layers add. The capsule that came in has a length too.
    """
    mistakes: dict[str, Callable[[int], float]] = {
        "That counts what the layers add. The capsule that came in has a length too.": lambda n: n,
        "A capsule stays below 1 only if a squash is the last operation. Here the last operation is a sum.":
            lambda n: 1,
        "Lengths that double would need an f as long as x. A squash gives at most 1, however long its input.":
            lambda n: 2**n,
        "Independent directions would add like that, on average. A bound must hold when all point the same way.":
            lambda n: (n + 1) ** 0.5,
        "One too many: n layers add n capsules to the one that came in.": lambda n: n + 2,
    }  # fmt: skip
    praise = "The input is shorter than 1, and each layer adds less than 1: use the triangle inequality."
    advice = "Ask for one layer first: |x + f(x)| is at most |x| + |f(x)|, and |f(x)| is below what?"
    return check_function(answer, lambda n: n + 1, mistakes, [(0,), (1,), (5,), (16,)], praise, advice)


def gradient(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check the gradient of the input of a residual layer.

    Args:
        answer: function of the layer's Jacobian matrix `[E, E]`, row = output, and the gradient of the sum, `[E]`, that
            returns the gradient of the layer's input, `[E]`.

    Returns:
        The verdict.

    >>> gradient(lambda jacobian, g: g + jacobian.T @ g).right
    True
    """
    jacobian, g = random_tensor(E, E), random_tensor(E, seed=1)
    result = call_answer(answer, jacobian, g)
    mistakes = {
        "That is a layer without a shortcut. Both terms of the sum get its gradient.": jacobian.T @ g,
        "The Jacobian maps changes of the input to changes of the output. Gradients go the other way: transpose it.": g
        + jacobian @ g,
        "The Jacobian must be transposed, and the shortcut's own share is missing.": jacobian @ g,
        "That adds 1 to every entry. The identity has ones on the diagonal only.": (1 + jacobian).T @ g,
        "The gradient flows through the shortcut and through the layer: the two add up, they are not multiplied.": g
        * (jacobian.T @ g),
        "That is the shortcut's share alone. The layer's own is missing.": g,
    }  # fmt: skip
    praise = "The gradient through the shortcut is g, the gradient through the layer is Jᵀ g: (1 + J)ᵀ g."
    return compare_tensors(result, g + jacobian.T @ g, mistakes, praise, "[E]")


def paths(answer: Callable[[int], int]) -> Verdict:
    """Check how many of the paths through n residual layers remain when one layer is deleted.

    Args:
        answer: function of n that returns the number of paths that do not go through the deleted layer.

    Returns:
        The verdict.

    >>> paths(lambda n: 2 ** (n - 1)).right
    True
    """
    mistakes: dict[str, Callable[[int], float]] = {
        "Those are all paths. Which of them went through the deleted layer?": lambda n: 2**n,
        "That counts layers. At each layer a path goes through the layer or through the shortcut.":
            lambda n: n - 1,
        "Only the path through all layers was taken away. Every path that uses the deleted layer is lost.":
            lambda n: 2**n - 1,
        "Without a shortcut, deleting a layer leaves no path. The shortcut around it stays.": lambda n: 0,
        "Two choices at each of n layers are 2 to the power of n, not n squared.": lambda n: (n - 1) ** 2,
    }  # fmt: skip
    praise = "Half of them: every path has a twin that differs in this layer alone."
    advice = "Write the paths of two layers down: there are four. Delete the second layer, and count again."
    return check_function(answer, lambda n: 2 ** (n - 1), mistakes, [(1,), (2,), (5,), (16,)], praise, advice)


def weighted(
    answer: Callable[[Tensor, Sequence[Callable[[Tensor], Tensor]], Sequence[float]], Tensor],
) -> Verdict:
    r"""Check a residual stack with a factor for each layer: :math:`x_{n+1} = x_n + \alpha_n f_n(x_n)`.

    Args:
        answer: function of capsules `[B, J, E]`, layers and one number alpha for each layer that returns capsules.

    Returns:
        The verdict.

    >>> def stack(x, layers, alphas):
    ...     for layer, alpha in zip(layers, alphas):
    ...         x = x + alpha * layer(x)
    ...     return x
    >>> weighted(stack).right
    True
    """
    x, alphas = random_tensor(B, J, E), (0.5, -0.25, 2.0)
    layers: list[Callable[[Tensor], Tensor]] = [torch.tanh, torch.sin, torch.cos]

    def run(step: Callable[[Tensor, Tensor, float], Tensor]) -> Tensor:
        y = x
        for layer, alpha in zip(layers, alphas, strict=True):
            y = step(y, layer(y), alpha)
        return y

    result = call_answer(answer, x, layers, alphas)
    once = x + alphas[0] * layers[0](x)
    mistakes = {
        "The factors alpha are not used.": run(lambda y, f, a: y + f),
        "The factor multiplies the whole sum. At zero it would remove the shortcut too.":
            run(lambda y, f, a: a * (y + f)),
        "The factor stands before the shortcut. It belongs to the layer.": run(lambda y, f, a: a * y + f),
        "There is no shortcut: each layer gives its own output alone.": run(lambda y, f, a: a * f),
        "That mixes x and f(x). The shortcut keeps all of x, whatever the factor.":
            run(lambda y, f, a: (1 - a) * y + a * f),
        "Every layer was given the first input. Each layer's input is the output of the one before.":
            x + sum(a * layer(x) for layer, a in zip(layers, alphas, strict=True)),
        "Only the first layer was used: the return is inside the loop.": once,
    }  # fmt: skip
    praise = "With all factors at zero the stack is the identity, whatever its weights."
    return compare_tensors(result, run(lambda y, f, a: y + a * f), mistakes, praise, "[B, J, E]")
