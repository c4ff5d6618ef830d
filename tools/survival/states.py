"""Settings of a whole process that others may have changed, and whether capsnb computes the same under each of them.

Each setting is tried in a child process: it trains a small network for an epoch, evaluates it and draws figures.
Nothing may differ from a child without the setting, and the setting must hold afterwards.
"""

import gc
import importlib
import locale
import logging
import multiprocessing
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from functools import cache, partial
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import torch

import capsnb
from capsnb import plots, progress
from survival.processes import Outcome

LIMIT = 60  # seconds for one child
ENTERED = ExitStack()  # context managers that a child never leaves
PRELOADED = ("capsnb", "accelerate", "matplotlib.backends.backend_svg", "seaborn", "sklearn.metrics")
Results = dict[str, Any]


class State(NamedTuple):
    """A setting of a process.

    Attributes:
        name: what is set.
        apply: sets it.
        held: returns what must be the same after the work as before it, and is another without the setting.
        rounding: whether results may differ by rounding, since the setting says how to compute.
        environment: variables with which the process starts.
    """

    name: str
    apply: Callable[[], object]
    held: Callable[[], object]
    rounding: bool = False
    environment: Mapping[str, str] = {}


def entered(make: Callable[[], Any]) -> Callable[[], object]:
    """Enter a context and stay in it."""
    return lambda: ENTERED.enter_context(make())


def attribute(place: str, name: str, value: object, **options: Any) -> State:
    """An attribute of something in PyTorch."""
    find = partial(attrgetter(place.removeprefix("torch.")), torch)
    return State(
        f"{place}.{name} = {value!r}",
        lambda: setattr(find(), name, value),
        lambda: getattr(find(), name),
        **options,
    )


def variables(**values: str) -> State:
    """Variables are set in the environment, which a process reads while it runs."""
    name = " ".join(f"{name}={value}" for name, value in values.items())
    return State(name, lambda: os.environ.update(values), lambda: {v: os.environ.get(v) for v in values})


def figures(name: str, change: Callable[[Any], object]) -> State:
    """Settings of matplotlib."""

    def apply() -> None:
        import matplotlib

        change(matplotlib)

    def held() -> object:
        import matplotlib

        return repr(matplotlib.rcParams.copy())

    return State(name, apply, held)


def rc(**values: Any) -> State:
    """Some of matplotlib's `rcParams`; two underscores stand for a dot."""
    params = {name.replace("__", "."): value for name, value in values.items()}
    named = ", ".join(f"{name}: {value}" for name, value in params.items())
    return figures(f"rcParams {named}", lambda matplotlib: matplotlib.rcParams.update(params))


def scikit_learn(**settings: Any) -> State:
    """Settings of scikit-learn; it asks for the variable where its functions shall take others' arrays."""
    name = ", ".join(f"{name}={value!r}" for name, value in settings.items())
    needed = {"SCIPY_ARRAY_API": "1"} if "array_api_dispatch" in settings else {}
    return State(
        f"sklearn.set_config({name})",
        lambda: importlib.import_module("sklearn").set_config(**settings),
        lambda: importlib.import_module("sklearn").get_config(),
        environment=needed,
    )


def decimal_comma() -> None:
    """A locale with a decimal comma; where none is installed, Python's answer about the locale alone."""
    for name in ("de_DE.UTF-8", "fr_FR.UTF-8", "pt_BR.UTF-8", "de_DE", "German"):
        with suppress(locale.Error):
            locale.setlocale(locale.LC_ALL, name)
            break
    else:
        locale._override_localeconv = {"decimal_point": ","}
    import matplotlib

    matplotlib.rcParams["axes.formatter.use_locale"] = True


def umask() -> int:
    """Read the mask of new files, which only a change tells."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def leave_deleted_folder() -> None:
    """Delete the current folder."""
    folder = tempfile.mkdtemp()
    os.chdir(folder)
    os.rmdir(folder)


def folder_is_there() -> bool:
    """Whether there is a current folder."""
    try:
        return bool(os.getcwd())
    except FileNotFoundError:
        return False


def somebody_accumulates() -> None:
    """Use Accelerate, with gradients that are accumulated."""
    from accelerate import Accelerator

    with Accelerator(cpu=True, gradient_accumulation_steps=4).accumulate(torch.nn.Linear(2, 2)):
        pass


def accelerate_state() -> object:
    """What Accelerate holds for all that use it."""
    from accelerate.state import AcceleratorState, GradientState, PartialState

    return [repr(dict(kind._shared_state)) for kind in (AcceleratorState, GradientState, PartialState)]


def log_everything() -> None:
    """Log messages of all levels."""
    logging.basicConfig(level=logging.DEBUG, stream=open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (until the child ends)


def without_streams() -> None:
    """As in a Windows program that has no console."""
    sys.stdout = sys.stderr = None


def subnormals() -> bool:
    """Whether numbers are computed that are too small for full precision."""
    return torch.tensor(1e-310, dtype=torch.float64).mul(1).item() > 0


PRECISIONS = (  # from PyTorch 2.9 on
    attribute("torch.backends", "fp32_precision", "bf16"),
    attribute("torch.backends.cuda.matmul", "fp32_precision", "tf32"),
    attribute("torch.backends.cudnn.conv", "fp32_precision", "ieee"),
)
STATES: tuple[State, ...] = (
    State("torch.set_grad_enabled(False)", lambda: torch.set_grad_enabled(False), torch.is_grad_enabled),
    State("torch.inference_mode()", entered(torch.inference_mode), torch.is_inference_mode_enabled),
    State(
        "torch.autocast in bfloat16",
        entered(partial(torch.autocast, "cpu", torch.bfloat16)),
        partial(torch.is_autocast_enabled, "cpu"),
    ),
    State(
        "torch.set_default_dtype(torch.float64)",
        lambda: torch.set_default_dtype(torch.float64),
        torch.get_default_dtype,
    ),
    State(
        'torch.set_default_device("meta")',
        lambda: torch.set_default_device("meta"),
        torch.get_default_device,
    ),
    State('with torch.device("meta")', entered(partial(torch.device, "meta")), torch.get_default_device),
    *(
        State(
            f'torch.set_float32_matmul_precision("{precision}")',
            partial(torch.set_float32_matmul_precision, precision),
            torch.get_float32_matmul_precision,
        )
        for precision in ("high", "medium")
    ),
    *(PRECISIONS if hasattr(torch.backends, "fp32_precision") else ()),
    attribute("torch.backends.cudnn", "allow_tf32", False),
    attribute("torch.backends.cudnn", "benchmark", True),
    attribute("torch.backends.mkldnn", "enabled", False, rounding=True),
    State(
        "torch.use_deterministic_algorithms(True)",
        lambda: torch.use_deterministic_algorithms(True),
        torch.are_deterministic_algorithms_enabled,
    ),
    State(
        "torch.set_num_threads, one more",
        lambda: torch.set_num_threads(torch.get_num_threads() + 1),
        torch.get_num_threads,
        rounding=True,
    ),
    State(
        "torch.set_flush_denormal(True)", lambda: torch.set_flush_denormal(True), subnormals, rounding=True
    ),
    State(
        "torch.autograd.set_detect_anomaly(True)",
        lambda: torch.autograd.set_detect_anomaly(True),
        torch.is_anomaly_enabled,
    ),
    State(
        "a forward hook on all modules",
        lambda: torch.nn.modules.module.register_module_forward_hook(lambda *_: None),
        lambda: len(torch.nn.modules.module._global_forward_hooks),
    ),
    State("torch.manual_seed", lambda: torch.manual_seed(12345), lambda: torch.get_rng_state().tolist()),
    State("numpy.random.seed", lambda: np.random.seed(5), lambda: repr(np.random.get_state())),
    State("random.seed", lambda: random.seed(5), random.getstate),
    State('numpy.seterr(all="raise")', lambda: np.seterr(all="raise"), np.geterr),
    State(
        'numpy.set_printoptions(legacy="1.13")',
        lambda: np.set_printoptions(precision=1, legacy="1.13"),
        np.get_printoptions,
    ),
    scikit_learn(transform_output="pandas", assume_finite=True),
    scikit_learn(array_api_dispatch=True),
    State("somebody else's Accelerator", somebody_accumulates, accelerate_state),
    variables(ACCELERATE_MIXED_PRECISION="bf16", ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4"),
    variables(RANK="0", LOCAL_RANK="0", WORLD_SIZE="1"),
    figures("the style dark_background", lambda matplotlib: matplotlib.style.use("dark_background")),
    figures("the style ggplot", lambda matplotlib: matplotlib.style.use("ggplot")),
    figures("the style classic", lambda matplotlib: matplotlib.style.use("classic")),
    figures("matplotlib.pyplot.xkcd()", lambda _: importlib.import_module("matplotlib.pyplot").xkcd()),
    figures("seaborn.set_theme()", lambda _: importlib.import_module("seaborn").set_theme("poster")),
    figures("matplotlib.interactive(True)", lambda matplotlib: matplotlib.interactive(True)),
    figures('matplotlib.use("pdf")', lambda matplotlib: matplotlib.use("pdf")),
    rc(text__usetex=True),
    rc(svg__fonttype="path", svg__image_inline=False),
    rc(font__family="serif", font__weight="bold"),
    rc(figure__dpi=300, savefig__dpi=300),
    rc(axes__unicode_minus=False, axes__formatter__limits=(-1, 1)),
    rc(savefig__bbox="tight", savefig__transparent=True),
    rc(figure__autolayout=True, lines__marker="*", xtick__direction="in"),
    State("a locale with a decimal comma", decimal_comma, lambda: locale.localeconv()["decimal_point"]),
    State("warnings are errors", lambda: warnings.simplefilter("error"), lambda: warnings.filters[0]),
    State("all logging to a file", log_everything, lambda: (logging.root.level, len(logging.root.handlers))),
    State("os.umask(0o077)", lambda: os.umask(0o077), umask),
    State("a current folder that was deleted", leave_deleted_folder, folder_is_there),
    State("no HOME", lambda: os.environ.pop("HOME", None), lambda: "HOME" in os.environ),
    State(
        "a TMPDIR that is not there",
        lambda: (os.environ.update(TMPDIR="/not/there"), setattr(tempfile, "tempdir", None)),
        lambda: os.environ.get("TMPDIR"),
    ),
    State(
        'multiprocessing.set_start_method("spawn")',
        lambda: multiprocessing.set_start_method("spawn", force=True),
        multiprocessing.get_start_method,
    ),
    State("no standard output or error", without_streams, lambda: (sys.stdout, sys.stderr) == (None, None)),
    State("no sys.argv", sys.argv.clear, lambda: len(sys.argv)),
    State(
        "IPython cannot be imported",
        lambda: sys.modules.update(IPython=None),
        lambda: sys.modules.get("IPython", "") is None,
    ),
    State("gc.disable()", gc.disable, gc.isenabled),
    State("sys.setrecursionlimit(300)", lambda: sys.setrecursionlimit(300), sys.getrecursionlimit),
    State("PYTHONHASHSEED=5", bool, lambda: hash("capsnb"), environment={"PYTHONHASHSEED": "5"}),
)


def compute(model: torch.nn.Module, folder: str) -> Results:
    """Train, read the checkpoint, evaluate and draw."""
    data = capsnb.load_data().subset(train=64, test=40)
    config = capsnb.TrainConfig(epochs=1, batch_size=32, optimizer="sgd", learning_rate=0.01)
    history = capsnb.fit(model, data, config, run_dir=folder)
    resumed = capsnb.fit(model, data, config, run_dir=folder)
    evaluation = capsnb.evaluate(model, data)
    drawn = {
        "lines": plots.lines({"a": [0.001, 2000.5], "b": [-0.5, 1]}, xlabel="x", ylabel="y"),
        "perturbations": plots.perturbations(model, data, dimensions=(0, 1), values=(-0.2, 0, 0.2)),
    }
    columns = [column for column in asdict(history.records[0]) if column not in ("seconds", "peak_memory")]
    return {
        "weights": {name: weight.numpy() for name, weight in model.state_dict().items()},
        "history": {column: history[column] for column in columns},
        "the history in the checkpoint": {column: resumed[column] for column in columns},
        "evaluation": asdict(evaluation),
        "summary": repr(capsnb.summary(model, data.image_shape)),
        **{f"the SVG of {name}": plots.to_svg(fig) for name, fig in drawn.items()},
    }


def child(name: str | None, folder: str, connection: Any) -> None:
    """Compute under a setting, in a process of its own; send what is wrong with the setting, and the results."""
    sys.stdout = sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the child ends)
    progress.DELAY = 0  # so that bars are drawn
    torch.manual_seed(0)
    model = capsnb.MoCapsNet(channels=4, capsule_types=1, hidden_capsules=4, decoder=(16,))
    wrong, results = "", {}
    try:
        if name is None:
            results = compute(model, folder)
        else:
            state = next(state for state in STATES if state.name == name)
            without = state.held()
            state.apply()
            held = state.held()
            if held == without and not state.environment:
                wrong = "it changes nothing here"
            results = compute(model, folder)
            if state.held() != held:
                wrong = f"it does not hold afterwards: {held!r:.200} became {state.held()!r:.200}"
    except BaseException as error:
        wrong = f"{type(error).__name__}: {error}".partition("\n")[0]
    connection.send((wrong, results))


@contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Variables that processes get which are started here."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            del os.environ[name]
        os.environ.update(before)


def run(name: str | None, variables: Mapping[str, str]) -> tuple[str, Results]:
    """Let a child compute under a setting; return what is wrong with it, and its results."""
    forks = "forkserver" in multiprocessing.get_all_start_methods() and not variables
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:  # a process that has imported everything and computed nothing, so that it has no threads
        context.set_forkserver_preload([*PRELOADED])
    receive, send = context.Pipe(duplex=False)
    with tempfile.TemporaryDirectory() as folder, environment(variables):
        process = context.Process(target=child, args=(name, folder, send), daemon=True)
        process.start()
        send.close()
        try:
            return receive.recv() if receive.poll(LIMIT) else (f"no answer within {LIMIT} s", {})
        except EOFError:
            process.join(1)
            return f"the process ended with code {process.exitcode}", {}
        finally:
            process.join(1)
            process.kill()
            process.join()


@cache
def undisturbed() -> Results:
    """The results without any setting."""
    wrong, results = run(None, {})
    if wrong:
        raise RuntimeError(f"capsnb fails without any setting: {wrong}")
    return results


def difference(results: Results, rounding: bool) -> str:
    """The first result that is not the one without the setting."""
    for name, expected in undisturbed().items():
        if rounding and name not in ("weights", "history"):
            continue
        for part in expected if isinstance(expected, dict) else [...]:
            one, other = (side if part is ... else side[part] for side in (results[name], expected))
            close = rounding and np.allclose(one, other, rtol=1e-4, atol=1e-5)
            same = np.array_equal(one, other) if isinstance(other, np.ndarray) else one == other
            if not (same or close):
                return name if part is ... else f"{name}: {part}"
    return ""


def try_states(names: Sequence[str] | None = None) -> list[Outcome]:
    """Try settings, all or those that are named, one after another."""
    outcomes = []
    for state in STATES:
        if names is None or state.name in names:
            wrong, results = run(state.name, state.environment)
            if not wrong and (changed := difference(results, state.rounding)):
                wrong = f"another result: {changed}"
            outcomes.append(Outcome(state.name, not wrong, wrong))
    return outcomes
