"""Whatever takes numbers takes those of Python, NumPy and PyTorch alike, holds Python's, and refuses all others."""

import builtins
import inspect
import json
import math
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from typing import Any, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn

import capsnb
from capsnb import (
    BackboneNet,
    CapsuleOutput,
    ImageData,
    Preprocess,
    RoutingCapsules,
    Split,
    TrainConfig,
    bench,
)
from capsnb.backbones import LinearHead
from capsnb.bench import (
    depth,
    inversion_error,
    peak_memory,
    routing_backends,
    scaling,
    training_step,
)
from capsnb.evaluation import evaluation_of_scores
from capsnb.profiling import Timing, Timings
from capsnb.values import plain, whole_number

TRAIN = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 0.25,
    "decay": 0.5,
    "step_epochs": 2,
    "accumulate": 2,
    "seed": 7,
}
TRAIN |= {"reconstruction_weight": 0.5, "compile": True}
PREPROCESS = {"pad": 1, "crop": 20, "rotate": 7.5, "resize": 30, "standardise": False}
FORMS = {
    "NumPy": lambda value: np.array(value)[()],
    "float32": lambda value: np.float32(value) if type(value) is float else np.array(value)[()],
    "0-d array": np.array,
    "0-d tensor": torch.tensor,
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize(("kind", "values"), [(TrainConfig, TRAIN), (Preprocess, PREPROCESS)])
def test_settings_hold_pythons_numbers_whatever_they_were_given(form, kind, values):
    made = kind(**{name: form(value) for name, value in values.items()})
    assert made == kind(**values)
    assert json.loads(json.dumps(asdict(made))) == asdict(made)
    for field in fields(made):
        assert type(getattr(made, field.name)) in (int, float, bool, str, type(None))


def test_a_whole_learning_rate_is_a_float_and_a_whole_float_an_integer():
    config = TrainConfig(learning_rate=1, epochs=3.0)
    assert (type(config.learning_rate), type(config.epochs)) == (float, int)


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (TrainConfig, "epochs", 2.5),
        (TrainConfig, "epochs", "3"),
        (TrainConfig, "epochs", True),
        (TrainConfig, "batch_size", torch.tensor([4])),
        (TrainConfig, "learning_rate", "1e-3"),
        (TrainConfig, "learning_rate", None),
        (TrainConfig, "compile", 1),
        (Preprocess, "pad", 1.5),
        (Preprocess, "standardise", 0),
        (Preprocess, "rotate", None),
    ],
)
def test_what_is_no_such_number_is_named(kind, name, value):
    with pytest.raises(TypeError, match=f"^{name} must be "):
        kind(**{name: value})


@given(st.integers(-5, 5) | st.floats(-5, 5) | st.text() | st.none() | st.booleans())
def test_a_whole_number_is_one_or_an_error_that_names_it(value):
    try:
        number = whole_number("count", value, at_least=1)
    except (TypeError, ValueError) as error:
        assert str(error).startswith("count must be ")
        assert isinstance(value, bool) or value is None or isinstance(value, str) or value < 1 or value % 1
    else:
        assert type(number) is int and number == value >= 1


def test_plain_leaves_everything_else():
    tensor = torch.zeros(1)
    assert plain(tensor) is tensor and plain(None) is None


# Public functions and classes with number arguments, and arguments that make each of them work. A third entry says
# which of the values of `WRONG` an argument may have besides.
def small_data():
    labels = torch.arange(12) % 3
    part = Split(torch.arange(12 * 49).remainder(256).to(torch.uint8).view(12, 1, 7, 7), labels)
    return ImageData("small", ("a", "b", "c"), part, part, Preprocess(pad=0))


def small_network():
    return BackboneNet((1, 7, 7), nn.Conv2d(1, 2, 3), LinearHead((2, 5, 5), 3), decoder=(4,))


EVALUATION = evaluation_of_scores([0, 1, 2] * 4, np.eye(3)[[1, 1, 2] * 4] * 0.5 + 0.1, "abc", dataset="small")
DRAWN = {"a": [1.0, 2.0]}


HEAD = {
    "in_shape": (2, 5, 5),
    "classes": 3,
    "capsule_types": 2,
    "capsule_dim": 2,
    "kernel_size": 2,
    "stride": 1,
}
CAPSULES = HEAD | {"class_dim": 3, "iterations": 2, "weight_std": 0.5}
DEEP = {"image_shape": (1, 17, 18), "classes": 3, "blocks": 1, "channels": 4, "capsule_types": 2}
DEEP |= {"capsule_dim": 2, "hidden_capsules": 3, "class_dim": 3, "iterations": 2, "weight_std": 0.5}
DEEP |= {"identity": 0.5, "decoder": (5, 6)}
CONVOLUTIONAL = {"classes": 3, "capsule_types": 2, "decoder": (5,)}
MEASURED = {"batch": 2, "rounds": 1, "iterations": 2, "seed": 3}
U, W = torch.randn(2, 6, 4), torch.randn(6, 3, 5, 4)
BETAS = {"beta_use": torch.zeros(3), "beta_activation": torch.zeros(3)}
OUTPUT = CapsuleOutput(torch.rand(2, 3, 4), torch.rand(2, 3), torch.rand(2, 1, 4, 4))
LABELS = torch.tensor([0, 2])
ENTRIES: dict[str, tuple[dict, dict]] = {
    "backbones.AlexBackbone": ({"in_channels": 2, "widths": (2, 3, 4, 5, 6)}, {}),
    "backbones.CapsuleHead": (CAPSULES, {"weight_std": "zero huge"}),
    "backbones.LinearHead": (
        {name: HEAD[name] for name in ("in_shape", "classes", "kernel_size", "stride")} | {"channels": 3},
        {},
    ),
    "backbones.ResNetBackbone": ({"in_channels": 2, "channels": 3, "blocks": 1}, {"blocks": "zero"}),
    "backbones.ResidualBlock": ({"channels": 3}, {}),
    "backbones.feature_shape": ({"backbone": nn.Conv2d(1, 2, 3), "image_shape": (1, 7, 8)}, {}),
    "backbones.make_head": ({"kind": "softmax", **HEAD}, {}),
    "backbones.torchvision_backbone": ({"name": "squeezenet1_1", "in_channels": 1}, {}),
    "bench.depth.measure_depth": (
        {"blocks": [1, 2], "image_shape": (1, 28, 28), "batch": 2, "rounds": 1, "seed": 3},
        {"seed": "zero", "blocks": "list"},
    ),
    "bench.inversion_error.measure_gradients": ({"batch": 2, "seed": 3}, {"seed": "zero"}),
    "bench.peak_memory.measure": ({"network": small_network, "batch": 2}, {}),
    "bench.peak_memory.predict": ({"network": small_network, "batch": 2}, {}),
    "bench.routing_backends.measure_memory": (
        {"cases": ["class layer"], "only": ["eager"], "batch": 2, "iterations": 2, "seed": 3},
        {"seed": "zero"},
    ),
    "bench.routing_backends.measure_routing": (
        {"cases": ["class layer"], "only": ["eager"], **MEASURED},
        {"seed": "zero"},
    ),
    "bench.scaling.measure_scaling": ({"count": 2, "batch": 4, "rounds": 1, "seed": 3}, {"seed": "zero"}),
    "bench.training_step.measure_step": ({"batch": 2, "rounds": 1, "seed": 3}, {"seed": "zero"}),
    "data.splits.ImageData.subset": (
        {"self": small_data(), "train": 6, "test": 3, "seed": 2},
        {"seed": "zero"},
    ),
    "data.splits.Split.subset": (
        {"self": small_data().train, "indices": [0, 5]},
        {"indices": "list minus zero true"},
    ),
    "data.splits.stratified_split": (
        {"labels": small_data().train.labels, "count": 6, "seed": 2},
        {"count": "zero", "seed": "zero"},
    ),
    "functional.squash": (
        {"s": torch.randn(3, 4), "dim": 0, "eps": 0.5},
        {"dim": "zero minus", "eps": "zero huge"},
    ),
    "kernels.dispatch.route": ({"u": U, "weight": W, "iterations": 2}, {}),
    "kernels.sda_em.route_by_distance": (
        {"u": U, "weight": W, "bias": torch.zeros(3, 5), "iterations": 2},
        {},
    ),
    "kernels.sda_em.route_by_em": (
        {"u": U, "weight": W, **BETAS, "iterations": 2, "inverse_temperature": 0.5},
        {"inverse_temperature": "huge"},
    ),
    "layers.PrimaryCapsules": (
        {"in_channels": 2, "capsule_types": 3, "dim": 4, "kernel_size": 5, "stride": 2},
        {},
    ),
    "layers.RoutingCapsules": (
        {"in_capsules": 2, "in_dim": 3, "out_capsules": 4, "out_dim": 5, "iterations": 2, "weight_std": 0.5},
        {"weight_std": "zero huge"},
    ),
    "layers.add_identity_": (
        {"layer": RoutingCapsules(3, 4, 3, 4), "gain": 0.5},
        {"gain": "minus zero huge"},
    ),
    "layers.default_weight_std": (
        {"in_capsules": 2, "out_capsules": 3, "out_dim": 4, "in_length": 0.5},
        {"in_length": "huge"},
    ),
    "losses.capsule_loss": (
        {"output": OUTPUT, "images": torch.rand(2, 1, 4, 4), "labels": LABELS, "reconstruction_weight": 0.5},
        {"reconstruction_weight": "zero huge"},
    ),
    "losses.margin_loss": (
        {"lengths": OUTPUT.lengths, "labels": LABELS, "m_plus": 0.75, "m_minus": 0.25, "down_weight": 0.5},
        {"m_plus": "zero", "m_minus": "zero", "down_weight": "zero huge"},
    ),
    "models.backbone_nets.AlexCapsNet": (
        {"image_shape": (1, 15, 16), "widths": (2, 3, 4, 5, 6), **CONVOLUTIONAL},
        {"decoder": "list"},
    ),
    "models.backbone_nets.BackboneNet": (
        {
            "image_shape": (1, 7, 7),
            "backbone": nn.Conv2d(1, 2, 3),
            "head": LinearHead((2, 5, 5), 3),
            "decoder": (4,),
        },
        {"decoder": "list"},
    ),
    "models.backbone_nets.ResNetCapsNet": (
        {"image_shape": (1, 9, 10), "channels": 3, "blocks": 1, **CONVOLUTIONAL},
        {"blocks": "zero", "decoder": "list"},
    ),
    "models.backbone_nets.TwoConvCapsNet": (
        {"image_shape": (1, 25, 26), "channels": 3, **CONVOLUTIONAL},
        {"decoder": "list"},
    ),
    "models.capsnet.CapsNet": (
        DEEP,
        {"blocks": "zero", "weight_std": "zero huge", "identity": "minus zero huge", "decoder": "list"},
    ),
    "models.capsnet.MoCapsNet": (DEEP | {"gamma": 0.5}, {"blocks": "zero"}),
    "models.capsnet.ResCapsNet": (DEEP, {"blocks": "zero"}),
    "models.output.Decoder": (
        {"classes": 3, "dim": 4, "image_shape": (1, 5, 6), "hidden": (7, 8)},
        {"hidden": "list"},
    ),
    "notebook.start_chapter": ({"number": 2, "seed": 3}, {"seed": "zero"}),
    "plots.charts.bars": ({"values": {"a": {"b": 1.0}}, "first": 1}, {"first": "zero"}),
    "plots.charts.lines": (
        {"values": DRAWN, "every": 2, "first": 1, "floor": 0.5},
        {"first": "zero", "floor": "minus zero huge"},
    ),
    "plots.charts.points": (
        {"values": {"a": {"b": [1.0]}}, "apart": 0.25, "first": 1},
        {"first": "zero", "apart": "zero huge"},
    ),
    "plots.drawings.diagram": (
        {"boxes": {"a": (1, 1), "b": (2, 1)}, "width": 5.0, "height": 2.5},
        {"width": "huge", "height": "huge none"},
    ),
    "plots.drawings.heatmaps": (
        {"matrices": {"a": [[0.0, 1.0]]}, "limits": (0.0, 2.0)},
        {"limits": "minus zero"},
    ),
    "plots.drawings.vectors": ({"values": {"a": [[3, 4]]}, "first": 1}, {"first": "zero"}),
    "plots.images.image_grid": ({"images": torch.zeros(4, 1, 5, 5), "columns": 2}, {}),
    "plots.images.mistakes": ({"evaluation": EVALUATION, "data": small_data(), "count": 2}, {}),
    "plots.images.perturbations": (
        {"model": small_network(), "data": small_data(), "index": 1}
        | {"dimensions": [0], "values": [-0.5, 0.5]},
        {"index": "zero", "dimensions": "zero", "values": "list minus zero huge"},
    ),
    "plots.images.reconstructions": ({"model": small_network(), "data": small_data(), "count": 2}, {}),
    "plots.results.roc": ({"evaluation": EVALUATION, "zoom": 0.25}, {}),
    "plots.results.tint": ({"share": 0.5, "deepest": 0.25}, {"deepest": "zero"}),
    "plots.routing.couplings": (
        {"couplings": np.full((3, 2, 8, 4), 0.25), "example": 1, "rows": 6},
        {"example": "zero"},
    ),
    "plots.style.figure": (
        {"rows": 2, "columns": 1, "width": 5.0, "height": 2.5},
        {"width": "huge", "height": "huge"},
    ),
    "preprocess.Preprocess": (
        {"pad": 1, "crop": 20, "rotate": 7.5, "resize": 30},
        {"pad": "zero", "rotate": "zero"},
    ),
    "preprocess.Preprocess.output_shape": ({"self": Preprocess(), "image_shape": (1, 7, 8)}, {}),
    "preprocess.rotate": (
        {"images": torch.rand(1, 1, 5, 5), "degrees": 7.5},
        {"degrees": "minus zero huge list"},
    ),
    "profiling.summary": ({"model": small_network(), "image_shape": (1, 7, 7)}, {}),
    "profiling.time_interleaved": ({"functions": {}, "rounds": 2, "warmup": 1}, {}),
    "reversible.MomentumCapsules": ({"layers": [RoutingCapsules(3, 4, 3, 4)], "gamma": 0.5}, {}),
    "routing.em_routing": (
        {"votes": torch.randn(2, 6, 3, 5), "activations": torch.rand(2, 6), **BETAS}
        | {"iterations": 2, "inverse_temperature": 0.5},
        {"inverse_temperature": "huge"},
    ),
    "routing.routing_by_agreement": ({"votes": torch.randn(2, 6, 3, 5), "iterations": 2}, {}),
    "routing.scaled_distance_routing": (
        {"votes": torch.randn(2, 6, 3, 5), "capsules": U, "iterations": 2},
        {},
    ),
    "training.config.TrainConfig": (
        {name: value for name, value in TRAIN.items() if name != "compile"},
        {"seed": "zero", "reconstruction_weight": "zero huge", "learning_rate": "huge"},
    ),
    "training.config.TrainConfig.learning_rate_at": (
        {"self": TrainConfig(epochs=4), "t": 2.5},
        {"t": "zero"},
    ),
    "training.loop.fit": (
        {
            "model": small_network(),
            "data": small_data(),
            "config": TrainConfig(epochs=1),
            "budget": 0.0,
            "progress": False,
        },
        {"budget": "zero infinity huge"},
    ),
}
NO_ENTRY = {
    "what it takes was computed, or read from a file": (
        "bench.depth.slope", "bench.measurement.format_value", "plots.charts.number", "plots.charts.numbers",
        "bench.peak_memory.StepMemory", "evaluation.Evaluation", "experiments.run.RunResult",
        "experiments.papers.ReportedAccuracy", "profiling.Peak", "profiling.Summary", "profiling.Timing",
        "profiling.Timing.of", "training.history.Epoch", "training.history.History",
    ),
    "its callers have checked the numbers": (
        "bench.depth.build_depth_network", "bench.depth.hidden_layers", "bench.depth.momentum_autograd",
        "bench.depth.momentum_layers", "bench.depth.momentumnet",
        "experiments.papers.in_small",
        "bench.inversion_error.Textbook.forward", "bench.inversion_error.loop", "bench.inversion_error.textbook",
        "bench.measurement.whole_settings", "bench.peak_memory.what_fits", "files.to_json", "functional.added",
        "bench.routing_backends.checkpointed", "bench.routing_backends.compiled",
        "kernels.measured.fastest", "kernels.measured.tuned",
        "bench.routing_backends.expanded", "bench.routing_backends.materialised", "bench.training_step.build_network",
        "bench.training_step.make_step", "bench.training_step.random_batch",
        "distributed.shard", "experiments.papers.percent", "experiments.run.execute",
        "experiments.run.train_and_evaluate", "functional.squash_gradient", "kernels.backend.RoutingBackend.forward",
        "kernels.backend.check_layer", "kernels.fused.Fused.forward", "kernels.native.Native.forward",
        "models.output.check_shape", "notebook.duration", "plots.style.name_ticks", "preprocess.Preprocess.draw",
        "recomputation.Recomputed", "recomputation.Recorder.record",
        "recomputation.call_layer", "reversible.momentum_inverse",
        "reversible.momentum_step", "routing.activation_logit", "routing.distance_scale", "tables.markdown",
    ),
    "they take what CapsNet takes": (
        "experiments.published.DoubledCapsNet", "experiments.published.DoubledResCapsNet",
        "experiments.published.PublishedMoCapsNet",
    ),
    "tests/test_evaluation.py and tests/test_experiments.py have them": (
        "evaluation.evaluate", "evaluation.evaluation_of_scores", "evaluation.wilson_interval",
        "experiments.registry.reproduce", "experiments.run.Run",
    ),
}  # fmt: skip
ELSEWHERE = ("capsnb.checks", "capsnb.cli", "capsnb.values", "capsnb.kernels.triton_backend")
WRONG = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus": -1,
    "zero": 0,
    "huge": 2**40,
    "text": "3",
    "none": None,
    "true": True,
    "list": [1],
}


class Lenient(dict):
    """Stands for names that a module imports for the type checker alone."""

    def __init__(self, module):
        self.known = vars(import_module(module)).keys() | vars(builtins).keys()

    def __missing__(self, name):
        if name in self.known:
            raise KeyError(name)
        return Any


def kinds(hint):
    """The numbers that a value of this type is, or holds."""
    if hint in (int, float):
        return {hint}
    if np.ndarray in get_args(hint):  # data, not a setting
        return set()
    if get_origin(hint) in (Callable, Mapping, dict):
        return set()
    return set().union(*map(kinds, get_args(hint)))


def public():
    """Every public function and class of the package, with the names and hints of its number arguments."""
    for found in pkgutil.walk_packages(capsnb.__path__, "capsnb."):
        if found.name.startswith(ELSEWHERE) or found.name.endswith("__main__"):
            continue
        for name, thing in vars(import_module(found.name)).items():
            if name.startswith("_") or getattr(thing, "__module__", None) != found.name:
                continue
            things = {name: thing} if inspect.isfunction(thing) or inspect.isclass(thing) else {}
            if inspect.isclass(thing):
                methods = {k: getattr(f, "__func__", f) for k, f in vars(thing).items() if k[0] != "_"}
                things |= {f"{name}.{k}": f for k, f in methods.items() if inspect.isfunction(f)}
            for path, callable_ in things.items():
                hinted = callable_ if not inspect.isclass(callable_) else callable_.__init__
                if inspect.isclass(callable_) and issubclass(callable_, tuple):
                    hinted = callable_
                if str(getattr(hinted, "__module__", "")).startswith("torch."):  # inherited: PyTorch's matter
                    continue
                hints = get_type_hints(hinted, localns=Lenient(found.name))
                numbers = {k: hint for k, hint in hints.items() if k != "return" and kinds(hint)}
                if numbers:
                    yield f"{found.name.removeprefix('capsnb.')}.{path}", (callable_, numbers)


PUBLIC = dict(public())
ARGUMENTS = [
    (name, argument)
    for name in ENTRIES
    for argument in PUBLIC.get(name, (None, {}))[1]
    if argument in ENTRIES[name][0]
]


def test_whatever_takes_numbers_has_an_entry():
    """A new function or class with numbers among its arguments must take them as this file says."""
    excused = {name for names in NO_ENTRY.values() for name in names}
    missing = sorted(PUBLIC.keys() - ENTRIES.keys() - excused)
    assert not missing, (
        f"{', '.join(missing)}: add arguments that work to ENTRIES in tests/test_values.py, or a reason to NO_ENTRY"
    )
    assert ENTRIES.keys() | excused <= PUBLIC.keys(), "an entry of what is not there, or takes no number"
    for name, (base, allows) in ENTRIES.items():
        numbers = PUBLIC[name][1]
        keywords = {k for k in numbers if inspect.signature(PUBLIC[name][0]).parameters[k].kind.value == 4}
        left_out = sorted(numbers.keys() - base.keys() - keywords - {"sweeps"})  # pairs: see test_bench.py
        assert not left_out, (
            f"{name}: ENTRIES in tests/test_values.py needs a value for {', '.join(left_out)}"
        )
        assert allows.keys() <= numbers.keys(), f"{name}: ENTRIES allows values of what is no number"


@pytest.fixture
def measurements_cost_nothing(monkeypatch):
    """What is measured is not the subject here: networks are small, and their rounds are not run."""
    monkeypatch.setattr(depth._Run, "networks", lambda run: [])
    monkeypatch.setattr(depth._Run, "stacks", lambda run: [])
    monkeypatch.setattr(inversion_error, "_errors", lambda *_: {})
    monkeypatch.setattr(routing_backends, "time_interleaved", lambda *_, **__: Timings({}, {}))
    monkeypatch.setattr(routing_backends._Problem, "memory", lambda *_: {})
    monkeypatch.setattr(routing_backends._Problem, "exact", lambda *_: None)
    monkeypatch.setattr(peak_memory, "peak_of_step", lambda *_: 0)
    monkeypatch.setattr(
        scaling._Run, "times", lambda run: dict.fromkeys(run.names, Timing.of([1.0] * run.rounds))
    )
    for module in (scaling, training_step):
        monkeypatch.setattr(module, "build_network", lambda *_: nn.Linear(1, 1))
        monkeypatch.setattr(module, "make_step", lambda *_: lambda: None)


def call(name, **changes):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return PUBLIC[name][0](**ENTRIES[name][0] | changes)


def described(thing):
    """What a result holds, in a form that can be compared; numbers must be Python's."""
    if isinstance(thing, nn.Module):
        own = {k: v for k, v in vars(thing).items() if not k.startswith("_")}
        parts = [*thing._parameters.values(), *thing._buffers.values()]
        return [type(thing).__name__, described(own), described(parts), *map(described, thing.children())]
    if isinstance(thing, bench.Bench):
        return described(thing.settings)
    if isinstance(thing, Figure):
        lines = [[line.get_color() for line in axis.lines] for axis in thing.axes]
        return getattr(thing, "alt", None), thing.get_size_inches().tolist(), lines
    if isinstance(thing, Axes):
        return len(thing.lines)
    if is_dataclass(thing):
        return described({field.name: getattr(thing, field.name) for field in fields(thing)})
    if isinstance(thing, dict):
        return {key: described(value) for key, value in thing.items()}
    if isinstance(thing, tuple | list):
        return [type(thing).__name__, *map(described, thing)]
    if isinstance(thing, torch.Tensor):
        return thing.dtype, thing.shape, thing.detach().numpy().tobytes()
    if isinstance(thing, np.ndarray) and thing.dtype == object:  # panels
        return [*map(described, thing.flat)]
    assert not isinstance(thing, np.generic | np.ndarray), f"{thing!r} is held as NumPy's"
    return thing


@pytest.mark.usefixtures("measurements_cost_nothing")
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_numbers_of_any_library_give_what_pythons_give(name, argument):
    value = ENTRIES[name][0][argument]
    if isinstance(value, tuple | list):
        given = [list(value), torch.tensor(value), np.array(value)]
        given += [type(value)(map(form, value)) for form in FORMS.values()]
    else:
        given = [np.float32(value), *(form(value) for form in FORMS.values())]
    expected = described(call(name))
    for other in given:
        assert described(call(name, **{argument: other})) == expected, repr(other)


def wrong_values(name, argument):
    """Values that are no such number, in the place of the argument, or of one of its numbers; and those that are."""
    base, allows = ENTRIES[name]
    value, optional = base[argument], type(None) in get_args(PUBLIC[name][1][argument])
    several = isinstance(value, tuple | list)
    for key, wrong in WRONG.items():
        right = key in allows.get(argument, "").split()
        if several and key != "list":
            yield type(value)([wrong, *value[1:]]), right
        yield wrong, (right and (key == "list" or not several)) or (optional and wrong is None)


@pytest.mark.usefixtures("measurements_cost_nothing")
@pytest.mark.parametrize(("name", "argument"), ARGUMENTS)
def test_what_is_no_such_number_is_refused_by_name(name, argument):
    for value, right in wrong_values(name, argument):
        if right:
            call(name, **{argument: value})
            continue
        try:
            call(name, **{argument: value})
        except (TypeError, ValueError) as error:
            message = str(error)
        else:
            pytest.fail(f"{argument}={value!r} is accepted")
        assert re.search(rf"\b{argument}\b.* must ", message), f"{argument}={value!r}: {message}"
        assert "\n" not in message and len(message) < 200
