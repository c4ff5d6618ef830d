"""The training loop, what it writes down, and how it goes on after a crash. Taught in chapter 4, *A first CapsNet*."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from torch import Tensor, nn

from capsnb import distributed
from capsnb.data import ImageData
from capsnb.files import write_atomically
from capsnb.losses import CLASSIFICATIONS, CapsuleLoss, Classification, capsule_loss
from capsnb.models import CapsuleOutput

if TYPE_CHECKING:
    from accelerate import Accelerator


def _ranger21(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    try:
        from pytorch_optimizer import Ranger21
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            'optimizer="ranger21" comes from the package pytorch_optimizer, which is not installed: '
            "pip install pytorch_optimizer, or choose another optimizer"
        ) from None
    # The schedule is TrainConfig's, as for every optimizer; Ranger21's own would need to know the steps to come.
    return Ranger21(parameters, num_iterations=1, lr=lr, disable_lr_scheduler=True)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {  # fused: one pass over the weights, not ten
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, fused=True),
    "sgd": partial(torch.optim.SGD, momentum=0.9, nesterov=True, fused=True),
    "ranger21": _ranger21,
}
SCHEDULES = ("constant", "exponential", "step", "cosine", "one_cycle")
PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
CHECKPOINT = "checkpoint.safetensors"
RUN = "run.json"  # beside it, from `capsnb train`: what was asked for


@dataclass(frozen=True)
class TrainConfig:
    """Everything that decides a training run besides the model and the data; saved with every result.

    The defaults are MoCapsNet's: Adam at 1e-3, decayed by 0.96 after each epoch, batches of 128.

    Args:
        epochs: how often the training images are seen, >= 1.
        batch_size: B, >= 1; with several processes, of all of them together.
        learning_rate: the highest learning rate, > 0.
        optimizer: "adam", "adamw", "sgd" (with Nesterov's momentum of 0.9), or "ranger21" (Wright and Demeure 2021,
            from the package pytorch_optimizer; its own warm-up and warm-down are off, since `schedule` decides).
        schedule: how the learning rate falls: "constant", "exponential" (times `decay` after each epoch), "step"
            (times `decay` after every `step_epochs` epochs), "cosine" (to zero), "one_cycle" (up for the first 30 %
            of the run, then down to zero).
        decay: factor of the exponential and step schedules, in (0, 1].
        step_epochs: epochs between the steps of the step schedule, >= 1.
        reconstruction_weight: weight of the summed squared pixel error in the loss, >= 0.
        precision: "fp32", with PyTorch's own settings; "tf32", float32 whose products and convolutions are rounded to
            ten bits (on a GPU from Ampere on); "bf16"; or "fp16" (on a GPU, with loss scaling). Weights, routing and
            the loss are float32 in all of them.
        accumulate: batches whose gradients are averaged before one step of the optimizer, >= 1.
        compile: train through `torch.compile`; on a GPU the step's kernels are recorded once, as CUDA graphs. The first
            step takes longer; results agree with those without it up to rounding.
        seed: decides order and augmentation of the images, >= 0.
        loss: "margin", or "cross_entropy", see `capsnb.losses`; a history has either in its column `margin`.

    Raises:
        ValueError: a value outside its range.
    """

    epochs: int = 10
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    schedule: Literal["constant", "exponential", "step", "cosine", "one_cycle"] = "exponential"
    decay: float = 0.96
    step_epochs: int = 2
    reconstruction_weight: float = 5e-4
    precision: Literal["fp32", "tf32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    compile: bool = False
    seed: int = 0
    loss: Classification = "margin"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "step_epochs", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate must be above 0, got {self.learning_rate}")
        if not 0 < self.decay <= 1:
            raise ValueError(f"decay must be in (0, 1], got {self.decay}")
        if not (math.isfinite(self.reconstruction_weight) and self.reconstruction_weight >= 0):
            raise ValueError(f"reconstruction_weight must be 0 or more, got {self.reconstruction_weight}")
        if self.seed < 0:
            raise ValueError(f"seed must be 0 or more, got {self.seed}")
        for name, known in (
            *(("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)),
            *(("precision", PRECISIONS), ("loss", CLASSIFICATIONS)),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; choose one of {', '.join(known)}")

    def learning_rate_at(self, t: float) -> float:
        """The learning rate after `t` epochs, 0 <= t <= epochs: a plain function, so a resumed run needs no state.

        >>> TrainConfig(epochs=4, schedule="step", decay=0.5, learning_rate=1.0).learning_rate_at(2.5)
        0.5
        """
        done = t / self.epochs
        factor = {
            "constant": lambda: 1.0,
            "exponential": lambda: self.decay ** int(t),
            "step": lambda: self.decay ** (int(t) // self.step_epochs),
            "cosine": lambda: _cosine(1, 0, done),
            "one_cycle": lambda: (
                _cosine(0.04, 1, done / 0.3) if done < 0.3 else _cosine(1, 0, (done - 0.3) / 0.7)
            ),
        }[self.schedule]
        return self.learning_rate * factor()


def _cosine(start: float, end: float, done: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * done)) / 2


@dataclass(frozen=True)
class Epoch:
    """One line of a training run.

    Attributes:
        epoch: counted from 1.
        loss: mean training loss, margin + weight * reconstruction.
        margin: mean margin loss while training.
        reconstruction: mean sum of squared pixel errors of an image while training.
        train_accuracy: share of augmented training images that were classified right during the epoch, 0 to 1.
        test_accuracy: share of test images classified right after the epoch, 0 to 1.
        learning_rate: of the last step.
        seconds: wall time of training, without the test.
        peak_memory: bytes; the allocator's peak on a GPU, the process's largest resident size elsewhere; of several
            processes, the largest.
        skipped_steps: steps that fp16's loss scaling left out, because a gradient was not finite.
    """

    epoch: int
    loss: float
    margin: float
    reconstruction: float
    train_accuracy: float
    test_accuracy: float
    learning_rate: float
    seconds: float
    peak_memory: int
    skipped_steps: int = 0


@dataclass
class History:
    """What happened in a training run: plain data, saved as JSON.

    Attributes:
        model: name of the model's class.
        data: name of the data set.
        parameters: number of trained numbers.
        device: where it ran, "cpu" or the name of the GPU.
        config: the run's configuration.
        records: one `Epoch` for each finished epoch.
    """

    model: str
    data: str
    parameters: int
    device: str
    config: TrainConfig
    records: list[Epoch] = field(default_factory=list)

    def __getitem__(self, column: str) -> list[float]:
        """One column, epoch by epoch: `history["test_accuracy"]`."""
        if column not in (names := [f.name for f in fields(Epoch)]):
            raise KeyError(f"no column {column!r}; there are {', '.join(names)}")
        return [getattr(record, column) for record in self.records]

    @property
    def seconds(self) -> float:
        """Wall time of all training epochs."""
        return sum(self["seconds"])

    def to_json(self) -> str:
        """Return the history as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Return the history that `to_json` wrote."""
        raw = json.loads(text)
        records = [Epoch(**record) for record in raw.pop("records")]
        return cls(**{**raw, "config": TrainConfig(**raw["config"]), "records": records})

    def save(self, path: str | Path) -> Path:
        """Write the history as JSON, whole or not at all."""
        return write_atomically(path, self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> History:
        """Read a history that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a saved history.
        """
        try:
            return cls.from_json(Path(path).read_text())
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not a history that capsnb saved ({error})") from error


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

    With `run_dir`, a checkpoint is written after each epoch, whole or not at all; called again with the same
    arguments, a run that was stopped goes on to bitwise the same weights as one that was not. The order and the
    augmentation of an epoch depend on the seed and the epoch alone.

    Under `torchrun` or `accelerate launch` each process computes its rows of each batch, and gradients are added up:
    the mathematics is that of one process, results agree up to rounding, whatever the number of processes, and a run
    may go on with another number. All of them return the same history and leave the same weights; the first one alone
    writes and shows progress. Two things are each process's own: the random numbers of dropout and its like, and on
    CPUs the statistics of batch norm, whose running ones are those of the first process. On several GPUs batch norm
    becomes `torch.nn.SyncBatchNorm`, which counts over all of them.

    Args:
        model: `model(images, labels)` returns a `CapsuleOutput`; it is trained in place and stays on the device.
        data: images, and how to preprocess them.
        config: see `TrainConfig`; None for its defaults.
        run_dir: folder of the checkpoint; None keeps nothing on disk.
        progress: show a progress bar.
        budget: seconds; an epoch that would not be over by then, judged by the longest before it, is not begun. With
            `run_dir` the next call goes on.

    Returns:
        The history, one record per epoch.

    Raises:
        FloatingPointError: the loss is not finite; names epoch, step and term. The last good checkpoint is kept.
        ValueError: the model's outputs do not fit the classes; fp16 or tf32 without a GPU that has it; a checkpoint
            of another run.
    """
    from tqdm import tqdm

    started, longest = time.monotonic(), 0.0
    config = config or TrainConfig()
    accelerator = _accelerator(config)
    data = data.to(accelerator.device)
    if distributed.world_size() > 1:
        model = _ready_for_several(model, data, accelerator)
    optimizer = OPTIMIZERS[config.optimizer](model.parameters(), lr=config.learning_rate)
    model, optimizer = accelerator.prepare(model, optimizer)
    bare = accelerator.unwrap_model(model)
    graphs = "reduce-overhead" if accelerator.device.type == "cuda" else None
    trained = torch.compile(model, mode=graphs) if config.compile else model
    history = History(
        type(bare).__name__,
        data.name,
        sum(p.numel() for p in bare.parameters()),
        _device_name(accelerator),
        config,
    )
    checkpoint = None if run_dir is None else Path(run_dir) / CHECKPOINT
    identity = {
        "model": history.model,  # the weights of another network may fit
        "data": data.name,
        "preprocess": asdict(data.preprocess),
        "config": asdict(config),
    }
    if checkpoint is not None:
        saved = distributed.from_rank0(lambda: _read(checkpoint) if checkpoint.exists() else None)
        if saved is not None:
            history.records = _resume(checkpoint, saved, identity, bare, optimizer, accelerator)
    steps = math.ceil(len(data.train) / config.batch_size)
    done = len(history.records)
    quiet = not (progress and accelerator.is_main_process)
    with (
        _rounding(config.precision),
        tqdm(
            total=config.epochs * steps, initial=done * steps, disable=quiet, leave=False, file=sys.stderr
        ) as bar,
    ):
        for epoch in range(done + 1, config.epochs + 1):
            begun = time.monotonic()
            late = begun + longest > started + budget
            if math.isfinite(budget) and distributed.all_gather(late)[0]:
                break
            record = _train_epoch(model, trained, optimizer, data, config, epoch, accelerator, bar)
            history.records.append(record)
            longest = max(longest, time.monotonic() - begun)
            skipped = f", skipped steps: {record.skipped_steps}" if record.skipped_steps else ""
            bar.set_postfix_str(f"epoch {epoch}: test accuracy {record.test_accuracy:.2%}{skipped}")
            if checkpoint is not None and accelerator.is_main_process:
                _save(checkpoint, identity, bare, optimizer, accelerator, history)
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)  # takes the autocast wrapper off `model.forward`
    return history


def _train_epoch(
    model: nn.Module,
    trained: Callable[..., CapsuleOutput],
    optimizer: torch.optim.Optimizer,
    data: ImageData,
    config: TrainConfig,
    epoch: int,
    accelerator: Accelerator,
    bar: Any,
) -> Epoch:
    device = accelerator.device
    generator = _generator(config.seed, epoch, device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    started = time.perf_counter()
    model.train()
    order = torch.randperm(len(data.train), generator=generator, device=device)
    # Margin and reconstruction of every step stay on the device: reading one would wait for it.
    terms: list[Tensor] = []
    correct = torch.zeros((), dtype=torch.long, device=device)
    skipped = torch.zeros((), device=device)
    learning_rate = config.learning_rate
    for group in order.split(config.batch_size * config.accumulate):
        learning_rate = config.learning_rate_at(epoch - 1 + len(terms) * config.batch_size / len(order))
        for parameters in optimizer.param_groups:
            parameters["lr"] = learning_rate
        batches = group.split(config.batch_size)
        for number, rows in enumerate(batches, start=1):
            share = distributed.shard(len(rows))
            size = share.stop - share.start
            if size == 0:  # all must take part in every step: compute an image that counts elsewhere
                share = slice(0, 1)
            labels = data.train.labels[rows[share]]
            images, targets = data.preprocess.train(data.train.images[rows], generator, share)
            # Gradients of a group are added up here first, and over the processes once.
            with nullcontext() if number == len(batches) else accelerator.no_sync(model):
                with accelerator.autocast():
                    output = trained(images, labels)
                if output.lengths.shape[1] != len(data.classes):
                    raise ValueError(
                        f"the model has {output.lengths.shape[1]} class capsules, {data.name} has {len(data.classes)} "
                        f"classes; build the model with classes={len(data.classes)}"
                    )
                loss = capsule_loss(output, targets, labels, config.reconstruction_weight, config.loss)
                # A group counts as one large batch. DDP takes the mean over the processes, where the sum is meant.
                weight = size / len(rows)
                accelerator.backward(
                    loss.total * (weight * distributed.world_size() * (len(rows) / len(group)))
                )
            terms.append(weight * torch.stack([loss.margin.detach(), loss.reconstruction.detach()]))
            correct += (output.lengths.argmax(dim=1) == labels)[:size].sum()
            bar.update()
        skipped += _step(optimizer, accelerator)
        optimizer.zero_grad()
        if len(terms) % 100 == 0:
            _check_finite(terms, epoch)
    margin, reconstruction = _check_finite(terms, epoch)
    seconds, memory = time.perf_counter() - started, _peak_memory(device)
    bare = accelerator.unwrap_model(model)
    # Running statistics of batch norm: one network, wherever it is tested.
    distributed.broadcast(bare.buffers())
    return Epoch(
        epoch=epoch,
        loss=margin + config.reconstruction_weight * reconstruction,
        margin=margin,
        reconstruction=reconstruction,
        train_accuracy=distributed.all_reduce(correct).item() / len(order),
        test_accuracy=_accuracy(bare, data, accelerator),
        learning_rate=learning_rate,
        seconds=max(distributed.all_gather(seconds)),
        peak_memory=max(distributed.all_gather(memory)),
        skipped_steps=int(skipped),
    )


def _step(optimizer: torch.optim.Optimizer, accelerator: Accelerator) -> Tensor | int:
    """Let the optimizer step; return whether the scaler left the step out, without waiting to know."""
    if accelerator.scaler is None:
        optimizer.step()
        return 0
    skipped: list[Tensor | int] = []
    # The scaler tells fused optimizers, which skip on the device, what it found; others it does not call.
    inner = cast(Any, optimizer).optimizer  # inside Accelerate's wrapper
    hook = inner.register_step_pre_hook(lambda called, *_: skipped.append(getattr(called, "found_inf", 0)))
    optimizer.step()
    hook.remove()
    return skipped[0] if skipped else 1


def _check_finite(terms: list[Tensor], epoch: int) -> tuple[float, float]:
    """The mean of each term over the steps so far; the first step with a NaN or an infinity stops all processes."""
    table = distributed.all_reduce(torch.stack(terms))
    bad = (~table.isfinite()).nonzero()
    if len(bad):
        step = int(bad[0, 0])
        named = dict(zip(CapsuleLoss._fields[1:], table[step].tolist(), strict=True))
        broken = ", ".join(f"{name} is {value}" for name, value in named.items() if not math.isfinite(value))
        raise FloatingPointError(
            f"the loss is not finite in epoch {epoch}, step {step + 1}: {broken}. Training stops; the last checkpoint, "
            "if there is one, is from before that. Try a lower learning rate or fp32, and look at the images."
        )
    margin, reconstruction = table.double().mean(dim=0).tolist()
    return margin, reconstruction


@torch.inference_mode()
def _accuracy(model: nn.Module, data: ImageData, accelerator: Accelerator) -> float:
    """Whole batches are shared out, not images: the same shapes round the same, however many processes there are."""
    model.eval()
    correct = torch.zeros((), dtype=torch.long, device=accelerator.device)
    batches = list(zip(data.test.images.split(500), data.test.labels.split(500), strict=True))
    for images, labels in batches[distributed.rank() :: distributed.world_size()]:
        with accelerator.autocast():
            output = model(data.preprocess.evaluate(images)[0])
        correct += (output.lengths.argmax(dim=1) == labels).sum()
    return distributed.all_reduce(correct).item() / len(data.test)


def _accelerator(config: TrainConfig) -> Accelerator:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    if config.precision in ("fp16", "tf32") and not torch.cuda.is_available():
        raise ValueError(f"precision={config.precision!r} needs a GPU; use 'bf16' or 'fp32' on a CPU")
    if config.precision == "tf32" and torch.cuda.get_device_capability() < (8, 0):
        older = torch.cuda.get_device_name()
        raise ValueError(
            f"precision='tf32' does nothing on {older}, which is older than Ampere; use 'fp16' or 'fp32'"
        )
    AcceleratorState._reset_state()  # Accelerate holds the first run's precision for the whole process
    return Accelerator(
        cpu=not torch.cuda.is_available(),  # not Apple's GPU, which lacks float64 and takes other random numbers
        mixed_precision=config.precision if config.precision in ("bf16", "fp16") else "no",
    )


def _ready_for_several(model: nn.Module, data: ImageData, accelerator: Accelerator) -> nn.Module:
    """Batch norm over all GPUs (PyTorch has none over CPUs), and DDP told whether some weights never get a gradient."""
    from accelerate import DistributedDataParallelKwargs

    if accelerator.device.type == "cuda":
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    idle = _has_idle_weights(model.to(accelerator.device), data)
    accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=idle)
    return model


def _has_idle_weights(model: nn.Module, data: ImageData) -> bool:
    """Whether the loss does not depend on some trained weight; one image tells. DDP would wait for its gradient."""
    modes = [(module, module.training) for module in model.modules()]
    with torch.random.fork_rng():
        output = model.eval()(data.preprocess.evaluate(data.train.images[:1])[0], data.train.labels[:1])
    for module, training in modes:
        module.training = training
    loss = sum(part.sum() for part in output[1:] if part is not None)
    trained = [p for p in model.parameters() if p.requires_grad]
    return any(g is None for g in torch.autograd.grad(loss, trained, allow_unused=True))


@contextmanager
def _rounding(precision: str) -> Iterator[None]:
    """Let float32 products and convolutions round to TF32 while a run lasts, if that was asked for."""
    if precision != "tf32":
        yield
        return
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.allow_tf32 = True
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def _generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """Random numbers of one epoch, from the seed and the epoch alone, the same for all processes.

    Dropout and its like draw from PyTorch's own generator, which is another one in each process: with the same numbers,
    two shares of a batch would lose the same units.
    """
    mixed = (seed * 1_000_003 + epoch) % 2**63
    torch.manual_seed(
        (mixed + distributed.rank() * 2_654_435_769) % 2**63
    )  # a CPU's generator takes the low 32 bits
    return torch.Generator(device).manual_seed(mixed)


def _device_name(accelerator: Accelerator) -> str:
    return torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _save(
    path: Path,
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    history: History,
) -> None:
    """One file holds weights, optimizer, history and configuration, so no kill can leave halves that do not match."""
    from safetensors.torch import save

    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    state = optimizer.state_dict()
    for index, values in state.pop("state").items():
        tensors |= {f"optimizer.{index}.{name}": torch.as_tensor(value) for name, value in values.items()}
    scaler = accelerator.scaler.state_dict() if accelerator.scaler is not None else {}
    metadata = {"run": identity, "history": history.to_json(), "scaler": scaler, "optimizer": state}
    write_atomically(
        path,
        save(
            {name: value.detach().cpu().contiguous() for name, value in tensors.items()},
            {name: json.dumps(value) for name, value in metadata.items()},
        ),
    )


def load_weights(model: nn.Module, path: str | Path) -> History:
    """Put the weights of a checkpoint that `fit(..., run_dir=...)` wrote into a model.

    Args:
        model: a model of the same sizes.
        path: the checkpoint, `RUN_DIR/checkpoint.safetensors`.

    Returns:
        The history of the run up to this checkpoint.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or belongs to another model.
    """
    tensors, metadata = _read(Path(path))
    _put_weights(model, tensors, Path(path))
    return metadata["history"]


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; train first, with run_dir={str(path.parent)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = {name: json.loads(text) for name, text in (file.metadata() or {}).items()}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, {**metadata, "history": History.from_json(metadata["history"])}
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} is not a whole checkpoint ({error}); delete it to start this run again"
        ) from error


def _put_weights(model: nn.Module, tensors: dict[str, Tensor], path: Path) -> None:
    weights = {name.removeprefix("model."): t for name, t in tensors.items() if name.startswith("model.")}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} belongs to another model: {error}") from error


def _resume(
    path: Path,
    checkpoint: tuple[dict[str, Tensor], dict[str, Any]],
    identity: dict[str, Any],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> list[Epoch]:
    """Put a checkpoint's weights and optimizer state back; return the finished epochs."""
    tensors, metadata = checkpoint
    saved, records = metadata["run"], metadata["history"].records
    for part, now in identity.items():
        then = saved.get(part)
        if then != now:
            if isinstance(now, dict) and isinstance(then, dict):
                part = next(f"{part}.{key}" for key in now | then if now.get(key) != then.get(key))
                now, then = (side.get(part.split(".")[1]) for side in (now, then))
            raise ValueError(
                f"{path} belongs to another run: {part} was {then!r} and is now {now!r}; choose another run_dir"
            )
    _put_weights(model, tensors, path)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            index, key = name.removeprefix("optimizer.").split(".", 1)
            like = parameters[int(index)]
            # empty_like keeps the parameter's memory format; another one would change the order of additions
            kept = torch.empty_like(like).copy_(value) if value.shape == like.shape else value
            state.setdefault(int(index), {})[key] = kept.detach()
    optimizer.load_state_dict({"state": state, **metadata["optimizer"]})
    if accelerator.scaler is not None:
        accelerator.scaler.load_state_dict(cast(dict[str, Any], metadata["scaler"]))
    return records
