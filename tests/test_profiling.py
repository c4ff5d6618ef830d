"""What is counted: shared memory once, custom operators too, and each function in its turn."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from capsnb import profiling
from capsnb.profiling import flops, format_error, hardware, peak_bytes, saved_bytes, time_interleaved

sizes = st.integers(1, 500)


@torch.library.custom_op("capsnb_tests::scratch", mutates_args=())
def scratch(x: Tensor, n: int) -> Tensor:
    """An operator that needs n numbers while it works."""
    return x + torch.empty(n).numel()


def scratch_backward(ctx, gradient):
    scratch(gradient, 1000)
    return gradient, None


scratch.register_autograd(scratch_backward)


class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x * 2)
        return x * x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * ctx.saved_tensors[0]


@given(sizes)
def test_memory_saved_twice_counts_once(n):
    x = torch.ones(n, requires_grad=True)
    assert saved_bytes(lambda: x.exp().sin()) == 4 * n  # exp saves its result, and sin the same tensor
    assert saved_bytes(lambda: x.exp().exp()) == 8 * n
    assert saved_bytes(lambda: Square.apply(x)) == 4 * n
    assert saved_bytes(lambda: x.detach().exp()) == 0


@given(sizes)
def test_a_view_saves_its_whole_storage(n):
    x = torch.ones(n + 1, requires_grad=True)
    assert saved_bytes(lambda: (x + 1)[:1].sin()) == 4 * (n + 1)


def test_ignored_tensors_are_not_counted():
    x, weight = torch.ones(3, 5, requires_grad=True), torch.ones(5, 7, requires_grad=True)
    assert saved_bytes(lambda: x @ weight) == 4 * (15 + 35)
    assert saved_bytes(lambda: x @ weight, ignore=(x,)) == 4 * 35
    assert saved_bytes(lambda: (x @ weight.T.mT).exp(), ignore=(x, weight)) == 4 * 21


def test_of_a_checkpoint_only_the_inputs_are_saved():
    x = torch.ones(100, requires_grad=True)
    assert saved_bytes(lambda: checkpoint(lambda x: x.exp().exp(), x, use_reentrant=False), ignore=(x,)) == 0
    twice = lambda: checkpoint(torch.sin, checkpoint(torch.exp, x, use_reentrant=False), use_reentrant=False)  # noqa: E731
    assert saved_bytes(twice, ignore=(x,)) == 4 * 100, "the input of the second checkpoint"


@settings(max_examples=10)  # a profile each
@given(sizes, sizes, sizes)
def test_the_peak_is_the_most_that_lives_at_a_time(a, b, c):
    held = torch.empty(10_000)  # there before: not counted

    def function():
        first = torch.empty(a)
        second = torch.empty(b)
        del first
        third = torch.empty(c)
        return second, third, held

    assert peak_bytes(function) == (4 * max(a + b, b + c), 4 * max(a, b, c))


def test_the_peak_sees_into_custom_operators_and_backward_passes():
    x = torch.ones(10, requires_grad=True)
    peak, largest = peak_bytes(lambda: scratch(x.detach(), 5000))
    assert largest == 20_000 and 20_000 <= peak <= 20_200
    assert peak_bytes(lambda: torch.autograd.grad(scratch(x, 10).sum(), x)).largest == 4000
    y = torch.ones(1000, requires_grad=True)  # the saved tensor, the result, its gradient and that of y
    assert peak_bytes(lambda: torch.autograd.grad(Square.apply(y), y, torch.ones_like(y))).peak == 4 * 4000


def test_the_first_call_is_not_counted():
    calls: list[int] = []

    def function():
        calls.append(len(calls))
        return torch.empty(1000 if len(calls) == 1 else 10)

    assert peak_bytes(function) == (40, 40) and calls == [0, 1]


@pytest.mark.gpu
def test_memory_of_a_gpu_is_counted():
    held = torch.empty(1 << 20, device="cuda")  # there before, and in the allocator's units
    assert peak_bytes(lambda: held.exp().exp(), "cuda") == (8 << 20, 4 << 20)
    assert peak_bytes(lambda: torch.empty(1 << 20), "cuda") == (0, 0)


def test_nothing_allocated_is_nothing():
    assert peak_bytes(lambda: None) == (0, 0)


def test_memory_of_other_devices_is_refused():
    with pytest.raises(ValueError, match='device is "meta"; memory can be counted on "cpu" and "cuda"'):
        peak_bytes(lambda: None, "meta")


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_a_product_is_counted_forward_and_backward(n, m, k):
    a, b = torch.ones(n, m, requires_grad=True), torch.ones(m, k, requires_grad=True)
    assert flops(lambda: a @ b) == 2 * n * m * k
    assert flops(lambda: (a @ b).sum().backward()) == 3 * 2 * n * m * k
    assert flops(lambda: a.exp()) == 0


def test_functions_take_turns_and_each_is_first_once():
    calls: list[str] = []
    functions = {name: (lambda name=name: calls.append(name)) for name in "abc"}
    timings = time_interleaved(functions, rounds=2, warmup=1)
    assert calls == list("abc") + list("bca") + list("cab")
    assert list(timings) == ["a", "b", "c"] and timings.errors == {}
    assert all(timing.runs == 2 for timing in timings.values())


@given(st.lists(st.floats(0, 100), min_size=1, max_size=9), st.integers(1, 3))
def test_quartiles_are_of_the_timed_rounds(seconds, warmup):
    clock = iter(
        np.repeat(np.array([1000.0] * warmup + seconds), 2) * np.resize([0, 1], 2 * (warmup + len(seconds)))
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(profiling, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
        timing = time_interleaved({"a": lambda: None}, rounds=len(seconds), warmup=warmup)["a"]
    lower, median, upper = np.quantile(seconds, [0.25, 0.5, 0.75])
    assert (timing.lower, timing.median, timing.upper) == pytest.approx((lower, median, upper))


def test_what_cannot_run_is_left_out_and_says_why():
    calls: list[str] = []

    def no_compiler():
        calls.append("no")
        raise RuntimeError("no compiler\nin /some/folder")

    timings = time_interleaved({"no": no_compiler, "yes": lambda: calls.append("yes")}, rounds=3, warmup=2)
    assert list(timings) == ["yes"] and timings.errors == {"no": "RuntimeError: no compiler"}
    assert calls == ["no"] + ["yes"] * 5
    assert time_interleaved({"no": no_compiler}).errors and not time_interleaved({"no": no_compiler})


def test_an_error_after_warming_up_is_an_error():
    calls: list[int] = []

    def third_time():
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("third time")

    with pytest.raises(RuntimeError, match="third time"):
        time_interleaved({"a": third_time}, rounds=1, warmup=2)


@pytest.mark.parametrize("name", ["rounds", "warmup"])
def test_numbers_below_one_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, got 0"):
        time_interleaved({}, **{name: 0})


def test_an_error_without_a_message_has_a_type():
    assert format_error(MemoryError()) == "MemoryError: "


def test_a_missing_compiler_is_none(monkeypatch, tmp_path):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\n")
    compiler.chmod(0o755)
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = hardware()
    assert found["compiler"] == "c++" and found["gpu"] is None and found["threads"] == torch.get_num_threads()
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    assert hardware()["compiler"] is None


def test_versions_need_no_installed_package(monkeypatch):
    """The package also runs from a folder on the path."""
    import importlib.metadata

    import capsnb

    def nothing_installed(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing_installed)
    found = profiling.versions()
    assert found["capsnb"] == capsnb.__version__ and set(found) == {"python", "capsnb", "torch"}


def test_a_command_names_no_folder_of_this_machine(monkeypatch):
    typed = [
        "capsnb",
        "reproduce",
        "table1",
        "--data",
        "somewhere",
        "--budget",
        "8m",
        "--out",
        "elsewhere",
    ]
    monkeypatch.setattr("sys.argv", typed)
    assert profiling.command() == [*typed[:4], "DIR", "--budget", "8m", "--out", "DIR"]
