"""Settings take numbers of Python, NumPy and PyTorch alike, and hold Python's own."""

import json
from dataclasses import asdict, fields

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb import Preprocess, TrainConfig
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
