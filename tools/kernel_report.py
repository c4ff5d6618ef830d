"""What Triton's compiler makes of the kernels, for GPUs that need not be here: python tools/kernel_report.py.

For each kernel, layer and generation of GPU: the block sizes that `capsnb.kernels.triton_backend` chooses, bytes of
shared memory, registers of a thread, bytes of numbers that do not fit into them (spills), and the instructions of the
inner loop for each vote, of which D or 3 D are multiply-adds.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from capsnb.kernels import triton_backend as kernels
from capsnb.tables import markdown

SHARED = {
    75: 64 * 1024,
    80: 163 * 1024,
    90: 227 * 1024,
}  # compute capability -> bytes a program: T4, A100, H100
LAYERS = ((1152, 32, 8, 8), (32, 32, 8, 8), (32, 10, 16, 8), (33, 100, 16, 16))  # I, J, E, D
PROGRAMS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


class Compiled(NamedTuple):
    """One kernel for one layer and GPU; without block sizes where nothing fits, so that "fused" computes there."""

    kernel: str
    layer: tuple[int, ...]
    capability: int
    blocks: kernels.Blocks | None
    shared: int = 0
    registers: int = 0
    spills: int = 0
    instructions: float = 0.0  # of a thread in the inner loop, for each vote


def report(
    layers: Sequence[tuple[int, int, int, int]] = LAYERS,
    capabilities: Sequence[int] = tuple(SHARED),
    batch: int = 128,
) -> list[Compiled]:
    """Compile the two kernels that have a loop, the first of them as first and as later iteration."""
    rows = []
    for layer in layers:
        tiles, tile = kernels.tiling(layer[0])
        later = tiles if tiles <= kernels.FEW else 1
        cases = (
            ("first iteration", kernels._iteration, {"SUMS": 0, "TILE": tile}),
            ("iteration", kernels._iteration, {"SUMS": later, "TILE": tile}),
            ("gradients", kernels._gradients, {}),
        )
        for capability in capabilities:
            for name, kernel, constants in cases:
                kind = {"gradients": kernel is kernels._gradients, "tensor_cores": capability >= 80}
                found = next(kernels.blocks(layer[1:], batch, SHARED[capability], **kind), None)
                figures = compiled(kernel, layer[1:], found, constants, capability) if found else ()
                rows.append(Compiled(name, layer, capability, found, *figures))
    return rows


def compiled(
    kernel: Any, layer: tuple[int, ...], blocks: kernels.Blocks, constants: dict[str, int], capability: int
) -> tuple[int, int, int, float]:
    """Shared memory, registers, spills, and instructions of the inner loop for each vote, for float32."""
    arguments = {**blocks.constants(), **constants, **dict(zip("JED", layer, strict=True)), "u_d": 1}
    options = {name: arguments.pop(name) for name in ("num_warps", "num_stages")}
    names = kernel.arg_names
    types = {n: "constexpr" if n in arguments else "*fp32" if n.endswith("_at") else "i32" for n in names}
    aligned = {(n,): [["tt.divisibility", 16]] for n, name in enumerate(names) if name.endswith("_at")}
    source = ASTSource(kernel, types, {(names.index(n),): x for n, x in arguments.items()}, aligned)
    built = compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(built.asm["cubin"])
        file.flush()
        usage, code = (
            subprocess.run(  # noqa: S603 - programs of Triton, on what was compiled above
                [PROGRAMS / command, option, file.name], capture_output=True, text=True, check=True
            ).stdout
            for command, option in (("cuobjdump", "-res-usage"), ("nvdisasm", "-c"))
        )
    registers, spills = (int(re.search(rf"{word}:(\d+)", usage)[1]) for word in ("REG", "STACK"))
    votes = blocks.rows * layer[0] * layer[1] / (32 * blocks.warps)
    return built.metadata.shared, registers, spills, longest_loop(code) / votes


def longest_loop(code: str) -> int:
    """Instructions between a label and the last branch back to it, in what nvdisasm prints."""
    labels: dict[str, int] = {}
    longest = instructions = 0
    for line in code.splitlines():
        if label := re.match(r"\s*(\.L_x_\d+):", line):
            labels[label[1]] = instructions
        elif re.search(r"/\*[0-9a-f]{4,}\*/\s+\S", line):
            instructions += 1
            target = re.search(r"BRA.*?(\.L_x_\d+)", line)
            if target and target[1] in labels:
                longest = max(longest, instructions - labels[target[1]])
    return longest


def table(rows: Sequence[Compiled]) -> str:
    """The report as a Markdown table."""
    head = "kernel|I, J, E, D|sm|votes|rows|warps|stages|shared|registers|spills|per vote"
    lines = [head.split("|")]
    for kernel, layer, capability, blocks, shared, registers, spills, instructions in rows:
        figures = ["nothing fits", *"-------"]
        if blocks:
            sizes = (blocks.rows, blocks.warps, blocks.stages, shared, registers, spills)
            figures = [blocks.precision, *(f"{x:,}" for x in sizes), f"{instructions:.1f}"]
        lines.append([kernel, ", ".join(map(str, layer)), str(capability), *figures])
    return markdown(lines, left=2)


if __name__ == "__main__":
    print(table(report()))
