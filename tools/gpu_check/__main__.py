"""Run one part: python -m gpu_check PART DEVICE FOLDER SECONDS, with `tools` and the repository on the path."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path

from gpu_check import layers, measurements, training
from gpu_check.job import Job

PARTS: dict[str, Callable[[Job], None]] = {
    "kernels": layers.compare_with_definition,
    "routing": measurements.routing_and_memory,
    "networks": measurements.steps_and_depth,
    "mnist": training.mnist,
    "cifar": training.cifar,
    "table4": measurements.table4,
    "tuner": layers.tune,
    "auto": measurements.auto_again,
    "bits": training.bits,
}

if __name__ == "__main__":
    name, device, folder, seconds = sys.argv[1:]
    gc.collect()
    gc.freeze()  # recording a CUDA graph collects garbage; the libraries' million objects are none
    PARTS[name](Job(name, device, Path(folder), float(seconds)))
