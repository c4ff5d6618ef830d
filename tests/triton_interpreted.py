"""Run by test_kernels.py in a process of its own, where Triton interprets its kernels: no GPU needed.

`TRITON_INTERPRET=1 python tests/triton_interpreted.py`
"""

import warnings
from contextlib import contextmanager

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from triton.runtime.errors import OutOfResources
from triton.runtime.interpreter import GridExecutor

from capsnb import squash
from capsnb.kernels import route, triton_backend
from capsnb.layers import default_weight_std

SIZES = [
    (0, 3, 2, 2, 2),
    (1, 1, 1, 1, 1),
    (3, 17, 5, 7, 3),
    (17, 18, 10, 16, 8),
    (2, 3, 1, 4, 17),
    (16, 5, 32, 8, 8),
    (2, 37, 3, 4, 8),  # more tiles than an iteration adds up itself
]
NO_KERNELS = {"new_empty", "empty_like", "select", "unbind", "alias", "detach", "view"}


def problem(B, I, J, E, D, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(B, D, I, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()  # strided
    W = torch.randn(I, J, E, D, generator=generator, dtype=dtype).requires_grad_()
    return u, W, torch.randn(B, J, E, generator=generator, dtype=dtype)


def compare(sizes, dtype=torch.float32, tolerance=1e-5, iterations=3):
    u, W, dv = problem(*sizes, dtype)
    found, expected = (
        (v := route(u, W, iterations, backend=backend), *torch.autograd.grad(v, (u, W), dv))
        for backend in ("triton", "eager")
    )
    for name, x, y in zip(("v", "du", "dW"), found, expected, strict=True):
        error = (x - y).norm() / y.norm().clamp(min=1e-30)
        assert error <= tolerance, f"{sizes}, {iterations}, {dtype}, {name}: relative error {error:.1e}"


class Operations(TorchDispatchMode):
    """Kernels that PyTorch would start beside Triton's, and Triton's."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if (name := function.overloadpacket.__name__) not in NO_KERNELS:
            self.names.append(name)
        return function(*args, **(kwargs or {}))


@contextmanager
def patched(place, name, value):
    real = getattr(place, name)
    setattr(place, name, value(real))
    try:
        yield
    finally:
        setattr(place, name, real)


def equals_the_definition():
    for sizes in SIZES:
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            compare(sizes, dtype, tolerance)
    compare((5, 3, 100, 16, 16))  # few rows of the batch in a program
    for iterations in (1, 2, 4):
        compare((2, 37, 3, 4, 8), iterations=iterations)
        compare((2, 7, 3, 4, 8), iterations=iterations)


def votes_of_tensor_cores_equal_the_definition():
    """As far as the interpreter can tell: its products of TF32 numbers are those of float32."""
    triton_backend.options.clear()
    with patched(triton_backend, "capability", lambda _: lambda _: 9.0):
        for sizes in ((17, 5, 10, 16, 8), (16, 37, 3, 4, 8)):
            compare(sizes)
        compare((17, 5, 3, 4, 8), torch.float64, 1e-9)
    precisions = {(key[3], found[0].precision) for key, found in triton_backend.options.items()}
    assert precisions == {(torch.float32, "tf32x3"), (torch.float64, "ieee")}, precisions
    triton_backend.options.clear()


def the_error_is_at_most_twice_that_of_the_plain_version():
    """Against float64, for capsules shorter than one and weights as they are drawn."""
    u, W, dv = problem(8, 144, 10, 16, 8)
    with torch.no_grad():
        u.copy_(squash(u))
        W *= default_weight_std(144, 10, 16)
    exact, plain, fast = (
        (v := route(x, y, backend=backend), *torch.autograd.grad(v, (x, y), dv.to(v.dtype)))
        for x, y, backend in ((u.double(), W.double(), "eager"), (u, W, "eager"), (u, W, "triton"))
    )
    for name, x, y, z in zip(("v", "du", "dW"), exact, plain, fast, strict=True):
        assert (z - x).norm() <= 2 * (y - x).norm(), name


def a_layer_is_few_kernels():
    """Four and two for a hidden layer; two more where so many sums are added by a kernel of their own."""

    def count(_):  # nothing is run, since the interpreter would use PyTorch itself
        return lambda self, *_, **__: counted.append(self.fn.__name__)

    for I, launches in ((32, 4), (64, 6)):
        u, W, dv = problem(2, I, 4, 4, 4)
        layer, counted = triton_backend.Triton(u.detach(), W.detach()), []
        with patched(GridExecutor, "__call__", count), Operations() as operations:
            saved = layer.forward(3)[1]
            assert len(counted) == launches, counted
            layer.backward(saved, dv)
        assert len(counted) == launches + 2 and not operations.names, (counted, operations.names)


def any_size_runs_where_nothing_fits():
    """In plain PyTorch, after one warning."""
    triton_backend.options.clear()
    with (
        patched(triton_backend, "shared_memory", lambda _: lambda _: 1000),
        warnings.catch_warnings(record=True) as said,
    ):
        warnings.simplefilter("always")
        compare((3, 5, 9, 16, 16))
        compare((3, 5, 9, 16, 16))
    texts = [str(warning.message) for warning in said]
    assert len(texts) == 2 and all("1,000 bytes" in text for text in texts), texts  # one for each kernel
    triton_backend.options.clear()


def smaller_blocks_are_taken_where_the_gpu_refuses_larger_ones():
    """Once: they are remembered."""
    refused = []

    def refuse(real):
        def run(self, *args, **constants):
            if constants.get("BLOCK", 0) > 2:
                refused.append(constants["BLOCK"])
                raise OutOfResources(1, 0, "shared memory")
            return real(self, *args, **constants)

        return run

    with patched(GridExecutor, "__call__", refuse):
        compare((5, 6, 4, 4, 8))
        tried = len(refused)
        compare((5, 6, 4, 4, 8))
    assert tried and len(refused) == tried, refused


def measured_block_sizes_come_first():
    """And the others after them, should they not run."""
    triton_backend.options.clear()
    sizes = {"rows": 2, "warps": 1, "stages": 1}
    with (
        patched(triton_backend, "capability", lambda _: lambda _: 9.0),
        patched(triton_backend, "tuned", lambda _: lambda *_: sizes),
    ):
        compare((5, 6, 4, 4, 8))
    for first, second, *_ in triton_backend.options.values():
        assert first.rows == 2 and second.rows == 8, (first, second)
    triton_backend.options.clear()


def main() -> None:
    warnings.simplefilter("error")  # "fused" must not stand in for a kernel that is wrong
    equals_the_definition()
    votes_of_tensor_cores_equal_the_definition()
    the_error_is_at_most_twice_that_of_the_plain_version()
    a_layer_is_few_kernels()
    any_size_runs_where_nothing_fits()
    smaller_blocks_are_taken_where_the_gpu_refuses_larger_ones()
    measured_block_sizes_come_first()


if __name__ == "__main__":
    main()
