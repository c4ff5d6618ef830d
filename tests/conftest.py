"""What all tests share."""

import gc

import pytest
from hypothesis import settings

# A property is true or false; how long an example takes on a busy machine says nothing about it.
settings.register_profile("capsnb", deadline=None)
settings.load_profile("capsnb")


@pytest.fixture(autouse=True, scope="module")
def freeze_what_is_loaded():
    """Spare the garbage collector the loaded libraries.

    `profiling` collects garbage in each measurement; a million objects of PyTorch and others take half a second each.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def fresh_compiler():
    """Let `torch.compile` forget: it gives up on a function that tests before this one had compiled eight times."""
    import torch  # not above: `pytest_configure` of ../conftest.py sets what PyTorch reads when it is imported

    torch.compiler.reset()
