"""Run by test_kernels.py in a process of its own, where Triton interprets its kernels: no GPU needed.

`TRITON_INTERPRET=1 python tests/triton_interpreted.py`
"""

import torch

from capsnb.kernels import route

SIZES = [
    (0, 3, 2, 2, 2),
    (1, 1, 1, 1, 1),
    (3, 17, 5, 7, 3),
    (17, 18, 10, 16, 8),
    (2, 3, 1, 4, 17),
    (16, 5, 32, 8, 8),
]


def main() -> None:
    for B, I, J, E, D in SIZES:
        for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
            generator = torch.Generator().manual_seed(0)
            u = (
                torch.randn(B, D, I, generator=generator, dtype=dtype).transpose(1, 2).requires_grad_()
            )  # strided
            W = torch.randn(I, J, E, D, generator=generator, dtype=dtype).requires_grad_()
            dv = torch.randn(B, J, E, generator=generator, dtype=dtype)
            found, expected = (
                (v := route(u, W, backend=backend), *torch.autograd.grad(v, (u, W), dv))
                for backend in ("triton", "eager")
            )
            for name, x, y in zip(("v", "du", "dW"), found, expected, strict=True):
                error = (x - y).norm() / y.norm().clamp(min=1e-30)
                assert error <= tolerance, f"{(B, I, J, E, D)}, {dtype}, {name}: relative error {error:.1e}"


if __name__ == "__main__":
    main()
