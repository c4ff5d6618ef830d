"""The measurements behind `capsnb bench`: ways to route, training steps, what depth costs, processes, side by side."""

from capsnb.bench import scaling, stacks, steps, undoing, ways
from capsnb.bench.measurement import ELSEWHERE, Bench, Columns, published, read, shown
from capsnb.bench.scaling import processes
from capsnb.bench.stacks import depth, slope
from capsnb.bench.steps import NETWORKS, VARIANTS, WITHOUT, step
from capsnb.bench.undoing import gradients
from capsnb.bench.ways import CASES, COMPETITORS, memory, routing

COLUMNS: dict[str, Columns] = (
    ways.COLUMNS | steps.COLUMNS | stacks.COLUMNS | undoing.COLUMNS | scaling.COLUMNS
)

__all__ = [
    "CASES",
    "COLUMNS",
    "COMPETITORS",
    "ELSEWHERE",
    "NETWORKS",
    "VARIANTS",
    "WITHOUT",
    "Bench",
    "depth",
    "gradients",
    "memory",
    "processes",
    "published",
    "read",
    "routing",
    "shown",
    "slope",
    "step",
]
