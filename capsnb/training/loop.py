"""The training loop: `fit`, an epoch, a step.

Taught in chapter 4, *A first CapsNet*.
"""

from __future__ import annotations

import math
import os
import random
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from capsnb import distributed
from capsnb.data import ImageData
from capsnb.defaults import default_settings
from capsnb.losses import CapsuleLoss, capsule_loss
from capsnb.models import CapsuleOutput
from capsnb.progress import progress_bar
from capsnb.training import checkpoint, recording
from capsnb.training.config import OPTIMIZERS, TrainConfig
from capsnb.training.history import Epoch, History
from capsnb.training.recording import Recorded
from capsnb.values import finite_number

if TYPE_CHECKING:
    from accelerate import Accelerator

_NormsBatches = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CHECK_EVERY = 100  # steps; to read the losses, the host waits for the device


def fit(
    model: nn.Module,
    data: ImageData,
    config: TrainConfig | None = None,
    *,
    run_dir: str | Path | None = None,
    progress: bool = True,
    budget: float = math.inf,
) -> History:
    """Train a capsule model on images, on the GPU if there is one, and in as many processes as were launched.

    With `run_dir`, a checkpoint is written after each epoch, whole or not at all. Called again with the same arguments,
    a run that was stopped resumes, and ends with bitwise the same weights as one that was not stopped. Order and
    augmentation of the images depend on the seed and the epoch alone.

    Under `torchrun` or `accelerate launch` each process computes its rows of each batch, and an all-reduce sums the
    gradients. Results agree with those of one process up to rounding, whatever the number of processes, and a run may
    resume with another number. All ranks return the same history and end with the same weights; rank 0 alone writes and
    shows progress. Two things differ between ranks: the random numbers of dropout and similar layers, and on CPUs the
    statistics of batch norm, whose running statistics are rank 0's. On several GPUs batch norm becomes
    `torch.nn.SyncBatchNorm`, which computes its statistics over all of them.

    On a GPU the first steps are computed kernel by kernel, and then a step is recorded as a CUDA graph, which later
    steps replay: see `TrainConfig.graph`.

    The run uses `default_settings`, whatever the process has set, and leaves everything as it was at its end, also
    after an error: random numbers, precision, Accelerate's state. The model itself is left in evaluation mode. The
    number of threads and the use of cuDNN and oneDNN stay yours; they change results by rounding alone.

    Args:
        model: `model(images, labels)` returns a `CapsuleOutput`; it is trained in place and stays on the device.
        data: images, and how to preprocess them.
        config: see `TrainConfig`; None for its defaults.
        run_dir: folder of the checkpoint; None keeps nothing on disk.
        progress: show a progress bar.
        budget: seconds, >= 0; no epoch starts that would exceed it if it took as long as the longest one so far. With
            `run_dir` the next call resumes.

    Returns:
        The history, one record per epoch.

    Raises:
        FloatingPointError: the loss is not finite; names epoch, step and term. The last good checkpoint is kept.
        ValueError: the model's outputs do not fit the classes; its weights cannot be trained; fp16 or tf32 without a
            GPU that has it; a checkpoint of another run.
    """
    budget = budget if budget == math.inf else finite_number("budget", budget, at_least=0)
    path = None if run_dir is None else Path(run_dir) / checkpoint.CHECKPOINT
    config = config or TrainConfig()
    with (
        torch.random.fork_rng(range(torch.cuda.device_count())),
        default_settings(config.precision, deterministic=config.deterministic),
        _own_accelerate_state(),
        _layers_kept(model),
    ):
        trainer = _Trainer(model, data, config)
        try:
            return _train(trainer, path, progress, budget)
        finally:
            trainer.close()


def _train(trainer: _Trainer, path: Path | None, progress: bool, budget: float) -> History:
    """Train the epochs that are left, one after another."""
    started, longest = time.monotonic(), 0.0
    config, history, first = trainer.config, trainer.new_history(), trainer.accelerator.is_main_process
    if path is not None:
        history.records = trainer.resume(path)
    steps, done = math.ceil(len(trainer.data.train) / config.batch_size), len(history.records)
    with progress_bar(
        label="training", shown=progress and first, total=config.epochs * steps, initial=done * steps
    ) as bar:
        for number in range(done + 1, config.epochs + 1):
            begun = time.monotonic()
            late = begun + longest > started + budget
            if math.isfinite(budget) and distributed.all_gather(late)[0]:
                break
            record = trainer.epoch(number, bar)
            history.records.append(record)
            longest = max(longest, time.monotonic() - begun)
            skipped = f", skipped steps: {record.skipped_steps}" if record.skipped_steps else ""
            bar.set_postfix_str(f"epoch {number}: test accuracy {record.test_accuracy:.2%}{skipped}")
            if path is not None and first:
                checkpoint.save(path, trainer.identity, history, **trainer.parts)
    return history


class _Step(NamedTuple):
    """The result of one step, on the device: reading a number would wait for the device.

    Attributes:
        terms: `[batches, 2]`, margin and reconstruction of each batch; their sum over the ranks is the batch's mean.
        correct: how many images of this rank were classified right.
        skipped: whether the loss scaling skipped the step.
    """

    terms: Tensor
    correct: Tensor
    skipped: Tensor | int


class _Trainer:
    """A model, its optimizer and its data on the device of this process."""

    def __init__(self, model: nn.Module, data: ImageData, config: TrainConfig) -> None:
        _check_weights(model)
        self.config, self.accelerator = config, _accelerator(config)
        self.identity = checkpoint.identity(model, data, config)  # before anything in it is replaced
        self.data = data.to(self.accelerator.device)
        _check_last_batch(model, len(data.train), config)
        if distributed.world_size() > 1:
            _prepare_for_ddp(model, self.data, self.accelerator)
        optimizer = OPTIMIZERS[config.optimizer](model.parameters(), lr=config.learning_rate)
        recorder = None if config.compile or not config.graph else recording.recorder(self.accelerator.device)
        if recorder and (reason := _obstacle(config, model)):
            recording.warn("a training step", reason)
            recorder = None
        prepare = partial(self.accelerator.prepare, model, optimizer)
        self.model, self.optimizer = recorder.run(prepare) if recorder else prepare()
        self.network = self.accelerator.unwrap_model(self.model)
        graphs = "reduce-overhead" if self.accelerator.device.type == "cuda" else None
        self.forward = torch.compile(self.model, mode=graphs) if config.compile else self.model
        self.parts = {
            "model": self.network,
            "optimizer": self.optimizer,
            "scaler": self.accelerator.scaler,
        }
        # A recorded step reads its learning rate from a tensor; so does any step of a fused optimizer on a GPU, for the
        # same numbers.
        fused_on_gpu = config.optimizer != "ranger21" and self.accelerator.device.type == "cuda"
        on_device = recorder is not None or fused_on_gpu
        self.rate = torch.zeros((), device=self.accelerator.device) if on_device else None
        self.skipped: Tensor | int = 0
        # With several processes two parts are recorded: what they exchange, one sum of all gradients, is not.
        self.gradient = _Gradients(self.network) if recorder and distributed.world_size() > 1 else None
        state = partial(_python_state, self.network)
        self.compute = Recorded(self._compute, recorder, "a training step", state)
        self.update = Recorded(self._update, recorder, "a step of the optimizer")
        self.correct = Recorded(self._correct, recorder, "a test batch", state)
        self.peak_memory = 0  # bytes, of all epochs so far: a replay allocates nothing

    def close(self) -> None:
        for recorded in (self.compute, self.update, self.correct):
            recorded.close()

    def new_history(self) -> History:
        parameters = sum(p.numel() for p in self.network.parameters())
        device = self.accelerator.device.type
        where = torch.cuda.get_device_name() if device == "cuda" else device
        return History(self.identity["model"], self.data.name, parameters, where, self.config)

    def resume(self, path: Path) -> list[Epoch]:
        """Load the checkpoint, if there is one; return the epochs that are finished."""
        saved = distributed.from_rank0(lambda: checkpoint.read(path) if path.exists() else None)
        return [] if saved is None else checkpoint.resume(path, saved, self.identity, **self.parts)

    def epoch(self, number: int, bar: Any) -> Epoch:
        """Train on each image once, in this epoch's order, and test."""
        config, device = self.config, self.accelerator.device
        generator = _seed_epoch(config.seed, number, device)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        self.model.train()
        order = torch.randperm(len(self.data.train), generator=generator, device=device)
        group, rate = config.batch_size * config.accumulate, config.learning_rate
        steps: list[_Step] = []
        for start in range(0, len(order), group):
            rate = config.learning_rate_at(number - 1 + start / len(order))
            self.set_learning_rate(rate)
            steps.append(self.step(order[start : start + group], generator))
            bar.update(len(steps[-1].terms))
            if len(steps) % CHECK_EVERY == 0:
                _check_finite(steps, number)
        terms = _check_finite(steps, number)
        sizes = [len(batch) for batch in order.split(config.batch_size)]
        margin, reconstruction = np.average(terms, axis=0, weights=sizes).tolist()  # the mean over images
        self.peak_memory = max(self.peak_memory, _peak_memory(device))
        seconds = time.perf_counter() - started
        # Running statistics of batch norm: one network, wherever it is tested.
        distributed.broadcast(self.network.buffers())
        correct = distributed.all_reduce(torch.stack([step.correct for step in steps]).sum())
        return Epoch(
            epoch=number,
            loss=margin + config.reconstruction_weight * reconstruction,
            margin=margin,
            reconstruction=reconstruction,
            train_accuracy=correct.item() / len(order),
            test_accuracy=self.test_accuracy(),
            learning_rate=rate,
            seconds=max(distributed.all_gather(seconds)),
            peak_memory=max(distributed.all_gather(self.peak_memory)),
            skipped_steps=int(sum(step.skipped for step in steps)),
        )

    def set_learning_rate(self, rate: float) -> None:
        if self.rate is not None:
            self.rate.fill_(rate)
        for parameters in self.optimizer.param_groups:
            parameters["lr"] = rate if self.rate is None else self.rate

    def step(self, rows: Tensor, generator: torch.Generator) -> _Step:
        """One step of the optimizer with the mean gradient over `rows`, which are computed batch by batch."""
        preprocess, sides = self.data.preprocess, self.data.image_shape[1:]
        drawn = [
            preprocess.draw(len(batch), sides, generator) for batch in rows.split(self.config.batch_size)
        ]
        terms, correct = self.compute(rows, *(torch.cat(numbers) for numbers in zip(*drawn, strict=True)))
        if self.gradient is not None:
            self.gradient.reduce()
            self.update()
        return _Step(terms, correct, self.skipped)

    def _compute(self, rows: Tensor, *drawn: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the step, but for what several processes exchange, from the numbers that were drawn for the views."""
        self.optimizer.zero_grad()  # what others, or a recording that failed, have left
        torch.clear_autocast_cache()  # it holds older weights if the caller's autocast is on
        batches = [x.split(self.config.batch_size) for x in (rows, *drawn)]
        results, last = [], len(batches[0]) - 1
        images = len(rows) if self.config.reduction == "mean" else 1
        for k, (batch, *numbers) in enumerate(zip(*batches, strict=True)):
            # Gradients are summed on each rank first; the last backward pass reduces them over the ranks.
            reduce = k == last and self.gradient is None
            with nullcontext() if reduce else self.accelerator.no_sync(self.model):
                results.append(self.backward(batch, numbers, len(batch) / images))
        terms, correct = zip(*results, strict=True)
        if self.gradient is None:
            self._update()
        else:
            self.gradient.collect()
        return torch.stack(terms), torch.stack(correct).sum()

    def _update(self) -> tuple[Tensor, ...]:
        """Let the optimizer step, and forget the gradients."""
        if self.gradient is not None:
            self.gradient.distribute()
        if self.rate is not None:  # PyTorch asks for "capturable" in a recording, and warns of it elsewhere
            recorded = self.rate.is_cuda and torch.cuda.is_current_stream_capturing()
            for parameters in self.optimizer.param_groups:
                parameters["capturable"] = recorded
        self.skipped = _optimizer_step(self.optimizer, self.accelerator)
        self.optimizer.zero_grad()  # not in the next step, whose activations would need memory beside them
        return ()

    def backward(self, batch: Tensor, drawn: Sequence[Tensor], weight: float) -> tuple[Tensor, Tensor]:
        """Forward and backward pass of this rank's rows of a batch; `weight` multiplies the mean loss."""
        shard = distributed.shard(len(batch))
        size = shard.stop - shard.start
        if size == 0:  # all ranks take part in all steps: compute an image with weight 0
            shard = slice(0, 1)
        train = self.data.train
        labels = train.labels[batch[shard]]
        images, targets = self.data.preprocess.view(
            train.images[batch[shard]], *(numbers[shard] for numbers in drawn)
        )
        with self.accelerator.autocast():
            output: CapsuleOutput = self.forward(images, labels)
        self.check_classes(output)
        loss = capsule_loss(output, targets, labels, self.config.reconstruction_weight, self.config.loss)
        share = size / len(batch)
        # DDP takes the mean over the ranks, where the sum is needed.
        self.accelerator.backward(loss.total * (share * distributed.world_size() * weight))
        terms = share * torch.stack([loss.margin.detach(), loss.reconstruction.detach()])
        return terms, (output.lengths.argmax(dim=1) == labels)[:size].sum()

    def check_classes(self, output: CapsuleOutput) -> None:
        capsules, classes = output.lengths.shape[1], len(self.data.classes)
        if capsules != classes:
            raise ValueError(
                f"the model has {capsules} class capsules, {self.data.name} has {classes} classes; "
                f"build the model with classes={classes}"
            )

    @torch.no_grad()  # in inference mode PyTorch up to 2.10 could not record a training step after a test batch
    def test_accuracy(self) -> float:
        """Ranks share whole batches: equal shapes round equally, however many ranks there are."""
        self.network.eval()
        correct = torch.zeros((), dtype=torch.long, device=self.accelerator.device)
        test = self.data.test
        batches = list(zip(test.images.split(500), test.labels.split(500), strict=True))
        for images, labels in batches[distributed.rank() :: distributed.world_size()]:
            correct += self.correct(images, labels)[0]
        return distributed.all_reduce(correct).item() / len(test)

    def _correct(self, images: Tensor, labels: Tensor) -> tuple[Tensor]:
        torch.clear_autocast_cache()
        with self.accelerator.autocast():
            output = self.network(self.data.preprocess.evaluate(images)[0])
        return ((output.lengths.argmax(dim=1) == labels).sum(),)


class _Gradients:
    """The gradients of a network in one tensor, which is added up over the processes."""

    def __init__(self, network: nn.Module) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.values, self.of_weights = torch.empty(0), list[Tensor]()

    def collect(self) -> None:
        """Take them from the weights. A weight on which the loss does not depend has none, on no rank."""
        if not self.of_weights:
            self.parameters = [p for p in self.parameters if p.grad is not None]
            self.values = torch.cat([p.detach().flatten() for p in self.parameters])
            parts = self.values.split([p.numel() for p in self.parameters])
            # In the weights' order in memory: fused optimizers walk through both without looking at strides.
            self.of_weights = [
                part.as_strided(p.shape, torch.empty_like(p, device="meta").stride())
                for part, p in zip(parts, self.parameters, strict=True)
            ]
        for p, gradient in zip(self.parameters, self.of_weights, strict=True):
            gradient.copy_(cast(Tensor, p.grad))
            p.grad = None

    def reduce(self) -> None:
        """Add them up over the ranks."""
        self.values.copy_(distributed.all_reduce(self.values))

    def distribute(self) -> None:
        """Give each weight its mean over the ranks, as DDP does."""
        self.values /= distributed.world_size()
        for p, gradient in zip(self.parameters, self.of_weights, strict=True):
            p.grad = gradient


def _python_state(network: nn.Module) -> dict[str, object]:
    """What a step may change outside of the GPU, where a replay changes nothing."""
    _, keys, position, *_ = np.random.get_state(legacy=True)
    state: dict[str, object] = {
        "the state of Python's random numbers": random.getstate(),
        "the state of NumPy's random numbers": (np.asarray(keys).tobytes(), position),
        "the state of PyTorch's random numbers": torch.get_rng_state().numpy().tobytes(),
    }
    for name, module in network.named_modules():
        values = {key: value for key, value in vars(module).items() if isinstance(value, int | float | str)}
        state |= {f"{name or 'network'}.{key}": value for key, value in values.items()}
    return state


def _obstacle(config: TrainConfig, network: nn.Module) -> str:
    """Why a step of this run cannot be recorded."""
    of_modules = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    kinds = (*of_modules, "_post_accumulate_grad_hooks")  # the last one of weights
    for name, owner in (*network.named_modules(), *network.named_parameters()):
        if any(getattr(owner, kind, None) for kind in kinds):
            return f"{name or 'the network'} has hooks, which a recording would not call"
    if config.precision == "fp16":
        return "the loss scaling of fp16 decides on the processor whether to step"
    if config.optimizer == "ranger21":
        return "Ranger21 computes numbers of each step on the processor"
    return ""


def _optimizer_step(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> Tensor | int:
    """Let the optimizer step; return whether the loss scaling left the step out, without waiting to know."""
    if accelerator.scaler is None:
        optimizer.step()
        return 0
    skipped: list[Tensor | int] = []
    # The scaler sets `found_inf` on fused optimizers, which skip on the device; it does not call the others.
    inner = cast(Any, optimizer).optimizer  # inside Accelerate's wrapper
    hook = inner.register_step_pre_hook(lambda called, *_: skipped.append(getattr(called, "found_inf", 0)))
    optimizer.step()
    hook.remove()
    return skipped[0] if skipped else 1


def _check_finite(steps: list[_Step], epoch: int) -> list[list[float]]:
    """The terms of each batch so far; the first NaN or infinity stops all processes."""
    terms = distributed.all_reduce(torch.cat([step.terms for step in steps]))
    bad = (~terms.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0, 0])
        named = dict(zip(CapsuleLoss._fields[1:], terms[step].tolist(), strict=True))
        broken = ", ".join(f"{name} is {value}" for name, value in named.items() if not math.isfinite(value))
        raise FloatingPointError(
            f"the loss is not finite in epoch {epoch}, step {step + 1}: {broken}. Training stops; the last checkpoint, "
            "if there is one, is from before that. Try a lower learning rate or fp32, and look at the images."
        )
    return terms.tolist()


@contextmanager
def _own_accelerate_state() -> Iterator[None]:
    """Keep what Accelerate holds for the whole process, and what its variables say, out of a run; put it back after.

    Otherwise a run would take the precision, the device or the accumulation of gradients that somebody else chose.
    """
    distributed.import_accelerate()
    from accelerate.state import AcceleratorState, GradientState, PartialState

    shared = [kind._shared_state for kind in (AcceleratorState, GradientState, PartialState)]
    before, threads = [dict(state) for state in shared], torch.get_num_threads()
    variables = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith("ACCELERATE_")}
    try:
        for state in shared:
            state.clear()
        with distributed.launched():
            yield
    finally:
        if torch.get_num_threads() != threads:  # Accelerate sets it in processes that were started by hand
            torch.set_num_threads(threads)
        for state, old in zip(shared, before, strict=True):
            state.clear()
            state.update(old)
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]
        os.environ.update(variables)


def _accelerator(config: TrainConfig) -> Accelerator:
    from accelerate import Accelerator

    if config.precision in ("fp16", "tf32") and not torch.cuda.is_available():
        raise ValueError(f"precision={config.precision!r} needs a GPU; use 'bf16' or 'fp32' on a CPU")
    if config.precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        older = torch.cuda.get_device_name()
        raise ValueError(
            f"precision='tf32' does nothing on {older}, which is older than Ampere; use 'fp16' or 'fp32'"
        )
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # not Apple's GPU, which lacks float64 and takes other random numbers
        mixed_precision=config.precision if config.precision in ("bf16", "fp16") else "no",
    )


def _check_weights(model: nn.Module) -> None:
    """Refuse weights that cannot be trained, in other words than PyTorch's in the first step."""
    for name, weight in model.named_parameters():
        if weight.is_meta or weight.is_inference():
            where = "on the meta device" if weight.is_meta else "in torch.inference_mode()"
            raise ValueError(
                f"the weight {name!r} was made {where} and cannot be trained: build the model elsewhere"
            )
    if not any(weight.requires_grad for weight in model.parameters()):
        raise ValueError(
            "no weight of the model requires a gradient: call model.requires_grad_() to train it"
        )


def _check_last_batch(model: nn.Module, images: int, config: TrainConfig) -> None:
    """Batch norm of one value per channel is undefined, which PyTorch would say at the end of the first epoch."""
    last = images % config.batch_size or config.batch_size
    ranks = distributed.world_size()
    small = last == 1 if ranks == 1 else not torch.cuda.is_available() and last < 2 * ranks
    normed = next((name for name, module in model.named_modules() if isinstance(module, _NormsBatches)), None)
    if small and normed is not None:
        where = "" if ranks == 1 else f" for {ranks} processes"
        raise ValueError(
            f"the last batch of {images} images has {last}{where}, too few for the batch norm {normed!r}: "
            f"choose another batch_size than {config.batch_size}, or another number of images"
        )


@contextmanager
def _layers_kept(model: nn.Module) -> Iterator[None]:
    """Take Accelerate's autocast wrapper off `model.forward` at the end, and put batch norm back."""
    own_forward = {name: value for name, value in vars(model).items() if name == "forward"}
    layers = [(parent, name, child) for parent in model.modules() for name, child in parent.named_children()]
    try:
        yield
    finally:
        for name in ("forward", "_original_forward"):  # the first stands in front of the class's own
            vars(model).pop(name, None)
        vars(model).update(own_forward)
        for parent, name, child in layers:
            if getattr(parent, name) is not child:
                setattr(parent, name, child.train(parent.training))


def _prepare_for_ddp(model: nn.Module, data: ImageData, accelerator: Accelerator) -> None:
    """Synchronise batch norm over GPUs (PyTorch cannot over CPUs), and let DDP expect weights without a gradient."""
    from accelerate import DistributedDataParallelKwargs

    model.to(accelerator.device)
    if accelerator.device.type == "cuda":
        synchronise_batch_norm(model)
    unused = _has_unused_weights(model, data)
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=unused)


def synchronise_batch_norm(model: nn.Module) -> None:
    """Replace batch norm inside a model by `torch.nn.SyncBatchNorm` with the same weights and statistics."""
    for parent in [*model.modules()]:
        for name, child in parent.named_children():
            if isinstance(child, _NormsBatches):
                setattr(parent, name, nn.SyncBatchNorm.convert_sync_batchnorm(child))


def _has_unused_weights(model: nn.Module, data: ImageData) -> bool:
    """Whether some weight gets no gradient, as one image shows; DDP would wait for it without end."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        output = model.eval()(data.preprocess.evaluate(data.train.images[:1])[0], data.train.labels[:1])
    finally:
        for module, training in modes:
            module.training = training
    loss = sum(part.sum() for part in output[1:] if part is not None)
    trained = [p for p in model.parameters() if p.requires_grad]
    return any(g is None for g in torch.autograd.grad(loss, trained, allow_unused=True))


def _seed_epoch(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Random numbers of one epoch, from the seed and the epoch alone, the same on all ranks.

    Dropout and its like draw from PyTorch's own generator, which differs from rank to rank: with equal numbers, all
    shards of a batch would drop the same units.
    """
    mixed = (seed * 1_000_003 + epoch) % 2**63
    # A CPU's generator takes the low 32 bits. `torch.manual_seed` would seed devices that `fit` does not reset.
    own = (mixed + distributed.rank() * 2_654_435_769) % 2**63
    torch.default_generator.manual_seed(own)
    if device.type == "cuda":
        torch.cuda.manual_seed(own)
    return torch.Generator(device).manual_seed(mixed)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # on Windows
        return 0

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
