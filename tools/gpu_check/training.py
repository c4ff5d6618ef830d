"""`fit` on a GPU: seconds an epoch, milliseconds a step, memory, and whether two runs end with the same bits.

No data set is needed: time does not depend on pixels. MNIST is the package's 5,000 digits, repeated; CIFAR-10's images
are random.
"""

from __future__ import annotations

import gc
import math
import statistics
import tempfile
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from capsnb.data import ImageData, Split, load_data
from capsnb.models import build
from capsnb.profiling import format_error
from capsnb.training import History, TrainConfig, fit
from gpu_check.job import Job

NARROW = {"channels": 8, "capsule_types": 2, "decoder": (16,)}  # of the rehearsal
BATCH = 128
WHOLE = {"mnist": 60_000, "cifar": 50_000}  # training images; 10,000 for testing
SLICE = 200 * BATCH
EPOCHS, SETTLED = 3, 1  # of a slice: how many, and after how many all steps are recorded
WHOLE_EPOCHS, WHOLE_SETTLED = 6, 4  # of all images, whose last batch is smaller and recorded later
DEEP = 5  # blocks of the network that tells what a block costs


class Timed(NamedTuple):
    """A run of `fit`: its name, its images, its configuration, and blocks of the network."""

    name: str
    images: int
    settings: dict[str, Any]
    blocks: int = 1


def mnist_images(count: int) -> ImageData:
    """MNIST's size: the package's 5,000 digits, repeated."""
    sample = load_data()
    images, labels = (
        torch.cat([getattr(sample.train, part), getattr(sample.test, part)]) for part in ("images", "labels")
    )

    def repeated(wanted: int) -> Split:
        chosen = torch.arange(wanted) % len(labels)
        return Split(images[chosen], labels[chosen])

    return ImageData("mnist5k, repeated", sample.classes, repeated(count), repeated(max(count // 6, 1)))


def cifar_images(count: int) -> ImageData:
    """CIFAR-10's size: random pixels."""
    generator = torch.Generator().manual_seed(0)

    def random(wanted: int) -> Split:
        images = torch.randint(256, (wanted, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return Split(images, torch.arange(wanted) % 10)

    return ImageData("random pixels", tuple("0123456789"), random(count), random(max(count // 5, 1)))


def network(job: Job, data: ImageData, blocks: int = 1) -> nn.Module:
    """MoCapsNet at full width, or narrow in the rehearsal; always the same initial weights."""
    torch.manual_seed(0)
    sizes = NARROW if job.rehearsed else {}
    return build("MoCapsNet", image_shape=data.image_shape, blocks=blocks, **sizes)


def mnist(job: Job) -> None:
    """Epochs of MNIST's size, recorded and plain, and what a block costs."""
    runs = (
        Timed("tf32", SLICE, {"precision": "tf32"}),
        Timed("fp32", WHOLE["mnist"], {}),
        Timed("bf16", SLICE, {"precision": "bf16"}),
        Timed("deep", SLICE, {"precision": "tf32"}, DEEP),
        Timed("plain", SLICE, {"graph": False}),
        Timed("undetermined", SLICE, {"deterministic": False}),
    )
    job.note("images of MNIST's size: the package's 5,000 digits, repeated (time does not depend on pixels)")
    found = timed(job, "mnist", mnist_images, runs)
    if "deep" in found and "tf32" in found:
        job.put(block_ms=(found["deep"] - found["tf32"]) / (DEEP - 1))


def cifar(job: Job) -> None:
    """Epochs of CIFAR-10's size, recorded and plain."""
    runs = (
        Timed("tf32", SLICE, {"precision": "tf32"}),
        Timed("fp32", WHOLE["cifar"], {}),
        Timed("bf16", SLICE, {"precision": "bf16"}),
        Timed("plain", SLICE, {"graph": False}),
    )
    job.note("images of CIFAR-10's size: random pixels (time does not depend on them)")
    timed(job, "cifar", cifar_images, runs)


def timed(job: Job, size: str, images: Any, runs: tuple[Timed, ...]) -> dict[str, float]:
    """Milliseconds a step of each run that ended; figures of all of them are kept."""
    found: dict[str, float] = {}
    for run in runs:
        if job.rehearsed and run.settings.get("precision") == "tf32":  # which needs a GPU
            run = run._replace(settings=run.settings | {"precision": "fp32"})
        batch = 16 if job.rehearsed else BATCH
        count = 2 * batch if job.rehearsed else run.images
        steps = math.ceil(count / batch)
        whole = run.images == WHOLE[size]
        epochs, settled = (WHOLE_EPOCHS, WHOLE_SETTLED) if whole else (EPOCHS, SETTLED)
        if (expected := epochs * steps * max(found.values(), default=0.0) / 1000) > job.left():
            job.note(f"{size}, {run.name}: not run, its {steps} steps would take {expected:.0f} s")
            continue
        data = images(count)
        gc.collect()  # the network before may be part of a cycle, and would count as memory of this one
        try:
            wanted = TrainConfig(epochs=epochs, batch_size=batch, **run.settings)
            history, said = trained(network(job, data, run.blocks), data, wanted)
        except Exception as error:  # of any kind: the next run may end
            job.note(f"{size}, {run.name}: {format_error(error)}")
            continue
        seconds = statistics.median(record.seconds for record in history.records[settled:])
        found[run.name] = 1000 * seconds / steps
        held = sum(part.nbytes for split in (data.train, data.test) for part in (split.images, split.labels))
        # With the first epoch, in which the step is recorded.
        peak = max(record.peak_memory for record in history.records)
        figures = {f"{size}_{run.name}_ms": found[run.name]}
        if whole:
            figures |= {f"{size}_epoch_s": seconds, f"{size}_peak_mb": (peak - held) / 1e6}
        job.put(**figures)
        all_steps = math.ceil(WHOLE[size] / BATCH)
        said += ["a rehearsal, in fp32"] if job.rehearsed and run.name in ("tf32", "deep") else []
        job.note(
            f"{size}, {run.name}, {run.blocks} block{'s' * (run.blocks > 1)}: {found[run.name]:.2f} ms a step "
            f"(of {steps}), {found[run.name] * all_steps / 1000:.2f} s an epoch of {all_steps} steps; "
            f"peak {peak / 1e6:.0f} MB, of them {held / 1e6:.0f} MB images"
            + "".join(f"; {text}" for text in said)
        )
    return found


def trained(model: nn.Module, data: ImageData, config: TrainConfig) -> tuple[History, list[str]]:
    """The history, and the first line of each warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = fit(model, data, config, progress=False)
    return history, list(dict.fromkeys(str(one.message).splitlines()[0] for one in caught))


def bits(job: Job) -> None:
    """Train twice with one seed, and once in two halves; count the bits of the weights that differ."""
    data = mnist_images(24 if job.rehearsed else 20 * BATCH + 40)  # the last batch is smaller
    epochs, batch = 5, 16 if job.rehearsed else BATCH  # in the fourth, the step of the last batch is recorded
    for precision in ("fp32", "bf16"):
        wanted = TrainConfig(epochs=epochs, batch_size=batch, precision=precision)

        def run(**options: Any) -> tuple[dict[str, Tensor], History]:
            model = network(job, data)
            history = fit(model, data, wanted, progress=False, **options)  # noqa: B023 - called in this turn
            return model.state_dict(), history

        (first, history), (second, _) = run(), run()
        same = differing_bits(first, second)
        job.note(f"{precision}, the same seed twice: {same} bits differ")
        with tempfile.TemporaryDirectory() as folder:
            budget = history.records[0].seconds / 2  # enough for the start of the first epoch
            done = len(run(run_dir=folder, budget=budget)[1].records)
            resumed = differing_bits(first, run(run_dir=folder)[0])
        job.note(f"{precision}, resumed after {done} of {epochs} epochs: {resumed} bits differ")
        figures = {"same_seed_bits": same} | ({"resumed_bits": resumed} if 0 < done < epochs else {})
        job.put(**{name: max(n, job.figures.get(name, 0)) for name, n in figures.items()})


def differing_bits(first: dict[str, Tensor], second: dict[str, Tensor]) -> int:
    """How many bits of two sets of weights differ."""

    def raw(x: Tensor) -> np.ndarray:
        return np.frombuffer(x.detach().cpu().contiguous().numpy().tobytes(), np.uint8)

    return sum(int(np.unpackbits(raw(first[name]) ^ raw(second[name])).sum()) for name in first)
