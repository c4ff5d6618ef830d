"""The measurements behind `capsnb bench`: routing backends, training steps, depth, inversion errors, scaling."""

from collections.abc import Callable

from capsnb.bench.depth import measure_depth, slope
from capsnb.bench.inversion_error import measure_gradients
from capsnb.bench.measurement import Bench, committed, format_value
from capsnb.bench.routing_backends import IMPLEMENTATIONS, LAYER_SIZES, measure_memory, measure_routing
from capsnb.bench.scaling import measure_scaling
from capsnb.bench.training_step import measure_step

MEASUREMENTS: dict[str, Callable[..., Bench]] = {
    "routing": measure_routing,
    "memory": measure_memory,
    "step": measure_step,
    "depth": measure_depth,
    "gradients": measure_gradients,
    "scaling": measure_scaling,
}

__all__ = [
    "IMPLEMENTATIONS",
    "LAYER_SIZES",
    "MEASUREMENTS",
    "Bench",
    "committed",
    "format_value",
    "measure_depth",
    "measure_gradients",
    "measure_memory",
    "measure_routing",
    "measure_scaling",
    "measure_step",
    "slope",
]
