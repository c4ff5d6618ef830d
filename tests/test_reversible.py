"""Stacks with shortcuts: momentum is undone exactly, and what is computed again is what was computed."""

import copy
import io
import itertools
import pickle
import random
from collections.abc import Callable
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

from capsnb import MomentumCapsules, ResidualCapsules, RoutingCapsules
from capsnb.profiling import saved_bytes

SIZES = [(6, 4), (1, 3), (5, 1)]  # J, E


def layers(depth, J=6, E=4, backend="eager"):
    return [RoutingCapsules(J, E, J, E, backend=backend) for _ in range(depth)]


def problem(depth=4, gamma=0.9, J=6, E=4, B=3, dtype=torch.float64, seed=0, backend="eager"):
    """A stack, capsules, and a gradient of what comes out."""
    torch.manual_seed(seed)
    stack = MomentumCapsules(layers(depth, J, E, backend), gamma).to(dtype)
    x, g = torch.randn(B, J, E, dtype=dtype).requires_grad_(), torch.randn(B, J, E, dtype=dtype)
    return stack, x, g


def results(function, stack, x, g):
    """Output and all gradients; None where there is none."""
    wanted = [t for t in (x, *stack.parameters()) if t.requires_grad]
    output = function(x)
    return output.detach(), *torch.autograd.grad(output, wanted, g.to(output.dtype), allow_unused=True)


def assert_equal(found, expected, tolerance):
    assert len(found) == len(expected)
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if b is None:
            assert a is None
            continue
        assert a.dtype == b.dtype and a.shape == b.shape
        error = (a - b).norm() / b.norm().clamp(min=1e-30)
        assert error <= tolerance, f"result {number}: relative error {error:.1e}"


def assert_as_plain(stack, x, g, tolerance=1e-9):
    expected = results(stack.forward_plain, stack, x, g)
    found = results(stack, stack, x, g)
    assert torch.equal(found[0], expected[0])
    assert_equal(found, expected, tolerance)


@settings(max_examples=30)
@given(
    depth=st.integers(0, 9),
    gamma=st.sampled_from([0.3, 0.5, 0.9, 0.99, 1.0]),
    size=st.sampled_from(SIZES),
    B=st.sampled_from([0, 1, 2, 5]),
    seed=st.integers(0, 99),
)
def test_all_gradients_equal_autograd_s_over_the_plain_recurrence(depth, gamma, size, B, seed):
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-5)):
        assert_as_plain(*problem(depth, gamma, *size, B, dtype, seed), tolerance)


@pytest.mark.parametrize(("depth", "gamma"), [(16, 0.9), (40, 0.9), (131, 0.9), (19, 0.5), (6, 0.1)])
def test_deep_stacks_in_float32_come_back_to_the_last_bit(depth, gamma):
    """As deep as is allowed: in float32 x and velocity would have lost everything."""
    stack, x, g = problem(depth, gamma, dtype=torch.float32)
    seen: list[Tensor] = []
    for layer in stack:
        layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach().clone()))
    found = results(stack, stack, x, g)
    there, back = seen[:depth], seen[depth:]
    assert len(back) == depth
    lost = sum(int((a != b).sum()) for a, b in zip(there, reversed(back), strict=True))
    assert lost <= 1e-3 * depth * x.numel()
    if lost == 0:
        assert_equal(found, results(stack.forward_plain, stack, x, g), 1e-5)


def test_the_recurrence_is_the_paper_s():
    """Algorithm 1, word by word, with a layer that can be followed by hand: f(x) = 2x."""

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * x

    x, v, gamma = torch.ones(1, 2, 3, dtype=torch.float64), 0.0, 0.5
    stack = MomentumCapsules([Double() for _ in range(3)], gamma)
    expected = x
    for _ in range(3):
        v = gamma * v + (1 - gamma) * 2 * expected
        expected = expected + v
    assert torch.equal(stack(x), expected)
    assert torch.equal(stack(x.clone().requires_grad_()), expected)
    assert torch.equal(ResidualCapsules([Double(), Double()])(x), 9 * x)


def test_residual_capsules_add_what_each_layer_says():
    stack, x, _ = problem(3)
    expected = x
    for layer in stack:
        expected = expected + layer(expected)
    torch.testing.assert_close(ResidualCapsules(stack)(x), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_saved_bytes_do_not_grow_with_depth(dtype):
    def kept(depth, plain=False):
        stack, x, _ = problem(depth, dtype=dtype)
        run = stack.forward_plain if plain else stack
        return saved_bytes(lambda: run(x), ignore=(x, *stack.parameters()))

    assert kept(2) == kept(8) == kept(32) == 2 * 3 * 6 * 4 * 8  # the last x and the last velocity
    assert kept(8, plain=True) > 2 * kept(2, plain=True)


def test_gradients_are_returned_and_grad_is_left_alone():
    stack, x, g = problem()
    results(stack, stack, x, g)
    assert x.grad is None and all(p.grad is None for p in stack.parameters())


def test_gradients_accumulate_and_hooks_of_parameters_run_once():
    stack, x, g = problem()
    calls = []
    stack[0].weight.register_hook(lambda gradient: calls.append(1) or 2 * gradient)
    expected = results(stack.forward_plain, stack, x, g)[2]
    calls.clear()
    for rows in (slice(0, 1), slice(1, 3)):
        stack(x[rows]).backward(g[rows])
    assert len(calls) == 2
    torch.testing.assert_close(stack[0].weight.grad, expected)


@pytest.mark.parametrize("backend", ["eager", "fused"])
def test_under_autocast_nothing_is_lost_between_layers(backend):
    stack, x, g = problem(8, dtype=torch.float32, backend=backend)
    exact = stack.forward_plain(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain = stack.forward_plain(x)
        output = stack(x)
        assert torch.is_autocast_enabled("cpu")
        assert stack(x.bfloat16()).dtype == torch.float32
    assert output.dtype == torch.float32 and torch.equal(output, plain)
    assert torch.equal(output, exact)
    wanted = [x, *stack.parameters()]
    found, expected = (torch.autograd.grad(y, wanted, g) for y in (output, plain))  # outside of autocast
    assert_equal(found, expected, 1e-5)


def test_a_scaler_s_factor_passes_through_and_an_overflow_skips_the_step():
    """Mixed precision multiplies the loss: gradients must grow by that factor, and an infinite one must be seen."""
    stack, x, g = problem(6, dtype=torch.float32)
    expected = results(stack, stack, x, g)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizer = torch.optim.SGD(stack.parameters(), lr=0.1)
    before = [p.detach().clone() for p in stack.parameters()]
    for factor in (1.0, float("inf")):
        optimizer.zero_grad()
        scaler.scale((stack(x.detach()) * g).sum() * factor).backward()
        scaler.unscale_(optimizer)
        if factor == 1:
            assert_equal([p.grad for p in stack.parameters()], expected[2:], 1e-6)
        scaler.step(optimizer)
        scaler.update()
        moved = [p.detach() for p in stack.parameters()]
        if factor == 1:
            assert all(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
            before = [p.clone() for p in moved]
    assert scaler.get_scale() == 2.0**9  # halved by the overflow
    assert all(torch.equal(a, b) for a, b in zip(before, moved, strict=True))


def test_autocast_s_copies_of_weights_are_not_left_behind():
    """A copy made where nothing is recorded would hide the weight from others who use it."""
    linear = nn.Linear(4, 4)
    stack, x = MomentumCapsules([linear]), torch.randn(2, 3, 4, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stack(x)
        outside = linear(x)
    assert torch.autograd.grad(outside.float().sum(), linear.weight)[0].any()


def test_half_precision_without_autocast():
    stack, x, g = problem(dtype=torch.bfloat16)
    assert stack(x).dtype == torch.bfloat16
    assert_as_plain(stack, x, g, 2e-2)


def test_what_dropout_drew_is_drawn_again():
    torch.manual_seed(0)
    stack = MomentumCapsules(nn.Sequential(layer, nn.Dropout(0.5)) for layer in layers(5)).double()
    _, x, g = problem()
    torch.manual_seed(1)
    expected = results(stack.forward_plain, stack, x, g)
    torch.manual_seed(1)
    output = stack(x)
    elsewhere = torch.rand(3)  # what others draw in between must not matter
    state = torch.get_rng_state()
    found = torch.autograd.grad(output, [x, *stack.parameters()], g)
    assert torch.equal(torch.get_rng_state(), state), "the generator was moved"
    assert_equal((output.detach(), *found), expected, 1e-9)
    assert elsewhere.numel() == 3


def test_layers_that_change_their_buffers_are_refused_by_name():
    class Normalised(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(6)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x)

    stack = MomentumCapsules([*layers(1), Normalised()])
    x, g = torch.randn(3, 6, 4, requires_grad=True), torch.randn(3, 6, 4)
    with pytest.raises(ValueError, match=r"layer 1: BatchNorm1d changes its buffer 'norm\..*Call \.eval\(\)"):
        stack(x)
    assert_as_plain(stack.eval(), x, g, 1e-5)  # then it changes nothing


def test_couplings_of_a_layer_that_is_computed_again_are_not_found_a_third_time(monkeypatch):
    from capsnb.kernels import fused

    calls, real = [], fused._couplings
    monkeypatch.setattr(fused, "_couplings", lambda *a: calls.append(1) or real(*a))
    stack = MomentumCapsules(RoutingCapsules(6, 4, 6, 4, backend="fused") for _ in range(5))
    stack(torch.randn(2, 6, 4)).sum().backward()
    assert len(calls) == 5 * (2 + 2), "in two iterations on the way there, and when it is computed again"


def test_frozen_layers_and_an_input_without_gradient():
    stack, x, g = problem()
    stack[1].requires_grad_(False)
    assert_as_plain(stack, x, g)
    assert_as_plain(stack, x.detach(), g)
    stack.requires_grad_(False)
    assert_as_plain(stack, x, g)
    assert not stack(x.detach()).requires_grad


def test_a_layer_twice_shares_its_weights():
    stack, x, g = problem()
    twice = MomentumCapsules([stack[0], stack[1], stack[0]])
    assert len(list(twice.parameters())) == 2
    assert_as_plain(twice, x, g)


def test_a_parameter_that_nobody_uses_has_no_gradient():
    stack, x, g = problem()
    stack[1].unused = nn.Parameter(torch.ones(2))
    assert_as_plain(stack, x, g)


def test_without_gradients_the_plain_loop_runs(monkeypatch):
    stack, x, _ = problem()
    expected = stack(x)
    monkeypatch.setattr(
        MomentumCapsules, "_forward_reversible", lambda *_: pytest.fail("prepared to go back")
    )
    with torch.no_grad():
        assert torch.equal(stack(x), expected)
    with torch.inference_mode():
        assert torch.equal(stack(x.detach()), expected)


def test_copies_pickles_slices_and_state_dicts():
    stack, x, _ = problem(gamma=0.7)
    for other in (copy.deepcopy(stack), pickle.loads(pickle.dumps(stack)), stack[:]):
        assert other.gamma == 0.7 and torch.equal(other(x), stack(x))
    assert len(stack[1:3]) == 2 and stack[1:3].gamma == 0.7 and stack[-1] is list(stack)[-1]
    file = io.BytesIO()
    torch.save(stack.state_dict(), file)
    file.seek(0)
    weights = torch.load(file)
    residual, again = ResidualCapsules(layers(4)).double(), MomentumCapsules(layers(4), 0.7).double()
    residual.load_state_dict(weights)
    again.load_state_dict(residual.state_dict())
    assert torch.equal(again(x), stack(x))
    assert torch.equal(residual(x), ResidualCapsules(stack)(x))
    assert "gamma=0.7" in repr(stack)


def test_a_weight_changed_before_the_way_back_is_noticed():
    stack, x, g = problem()
    output = stack(x)
    with torch.no_grad():
        stack[0].weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.backward(g)


def test_weights_lent_by_functional_call_are_those_of_the_way_back():
    stack, x, g = problem()
    lent = {name: (2 * p).detach().requires_grad_() for name, p in stack.named_parameters()}
    output = torch.func.functional_call(stack, lent, (x,))
    found = torch.autograd.grad(output, list(lent.values()), g)
    other = copy.deepcopy(stack)
    other.load_state_dict(lent)
    expected = torch.autograd.grad(other.forward_plain(x), list(other.parameters()), g)
    assert_equal(found, expected, 1e-9)


def test_a_second_derivative_is_refused_and_forward_plain_has_one():
    stack, x, g = problem()
    (dx,) = torch.autograd.grad(stack(x), x, g, create_graph=True)
    assert torch.equal(dx, torch.autograd.grad(stack(x), x, g)[0])
    with pytest.raises(RuntimeError, match=r"no second derivative.*forward_plain"):
        dx.sum().backward()
    with pytest.raises(RuntimeError, match="no second derivative"):
        torch.autograd.grad(dx.sum(), x)
    (dx,) = torch.autograd.grad(stack.forward_plain(x), x, g, create_graph=True)
    assert torch.autograd.grad(dx.sum(), x)[0].any()


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_equals_eager_and_can_be_exported():
    stack, x, g = problem()
    compiled = torch.compile(nn.Sequential(stack, nn.Tanh()), backend="aot_eager")
    expected = results(lambda x: stack(x).tanh(), stack, x, g)
    assert_equal(results(compiled, stack, x, g), expected, 1e-9)
    for strict in (False, True):
        exported = torch.export.export(stack, (x.detach(),), strict=strict)
        torch.testing.assert_close(exported.module()(x.detach()), stack(x))


@pytest.mark.usefixtures("fresh_compiler")
def test_the_compiler_leaves_the_stack_alone():
    stack, x, _ = problem()
    graphs = []

    def backend(graph, _):
        graphs.append(graph.code)
        return graph.forward

    torch.compile(lambda x: stack(x.sin()).tanh(), backend=backend)(x)
    assert "sin" in graphs[0] and "tanh" in graphs[-1] and not any("einsum" in graph for graph in graphs)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MomentumCapsules(layers(1), 0), r"gamma must be in \(0, 1\], got 0: .*Use ResidualCapsules"),
        (lambda: MomentumCapsules(layers(1), 1.1), r"gamma must be in \(0, 1\], got 1.1"),
        (lambda: MomentumCapsules(layers(1), -0.5), "got -0.5"),
        (lambda: MomentumCapsules(layers(1), float("nan")), "got nan"),
        (
            lambda: MomentumCapsules(layers(20), 0.5),
            r"20 layers with gamma=0.5 costs 6.0 of the 16 digits .* gamma=0.502 or more, or at most 19 layers",
        ),
        (
            lambda: ResidualCapsules([RoutingCapsules(6, 4, 5, 4)]),
            "layer 0 maps 6 capsules of 4 numbers to 5 of 4",
        ),
        (
            lambda: MomentumCapsules([*layers(2), *layers(1, 5, 4)]),
            "layer 2 maps 5 capsules of 4 numbers to 5 of 4, after layers of 6 capsules of 4",
        ),
        (
            lambda: ResidualCapsules([nn.Linear(4, 1)])(torch.ones(2, 3, 4)),
            r"layer 0 \(Linear\) makes \[2, 3, 1\] of \[2, 3, 4\]",
        ),
        (
            lambda: MomentumCapsules([nn.Linear(4, 1)])(torch.ones(2, 3, 4)),
            r"layer 0 \(Linear\) makes \[2, 3, 1\]",
        ),
    ],
)
def test_what_does_not_fit_is_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_advice_of_the_digits_can_be_followed():
    MomentumCapsules(layers(20), 0.502)
    MomentumCapsules(layers(19), 0.5)
    stack = MomentumCapsules(layers(19), 0.5)
    stack.append(layers(1)[0])
    with pytest.raises(ValueError, match="at most 19 layers"):
        stack(torch.ones(2, 6, 4))


class Closure(torch.nn.Module):
    """A layer whose weight is not registered."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.held = [weight]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.einsum("bje,jed->bjd", x, 2 * self.held[0])


def test_a_weight_that_is_no_parameter_is_refused_not_lost():
    weight = torch.randn(6, 4, 4, requires_grad=True)
    x = torch.randn(2, 6, 4, requires_grad=True)
    stack = MomentumCapsules([RoutingCapsules(6, 4, 6, 4), Closure(weight)])
    with pytest.raises(
        ValueError, match=r"layer 1 \(Closure\) uses a tensor of shape \[6, 4, 4\] .* register it"
    ):
        stack(x).sum().backward()
    (gradient,) = torch.autograd.grad(stack.forward_plain(x).sum(), weight)
    assert gradient.abs().sum() > 0
    weight.requires_grad_(False)  # a constant may be held as anything
    stack(x).sum().backward()


def test_replicas_of_data_parallel_store_what_they_need():
    stack = MomentumCapsules([RoutingCapsules(6, 4, 6, 4) for _ in range(2)])
    x = torch.randn(2, 6, 4)
    expected = torch.autograd.grad(stack.forward_plain(x).sum(), list(stack.parameters()))
    replica = stack._replicate_for_data_parallel()
    for layer, own in zip(stack, list(stack), strict=True):
        copy = own._replicate_for_data_parallel()
        copy._parameters = {}
        copy.weight = own.weight * 1  # what a broadcast gives: no parameter, but a function of one
        replica._modules[str(list(stack).index(layer))] = copy
    with pytest.warns(
        UserWarning, match=r"replicas weights .* memory is not saved; DistributedDataParallel would"
    ):
        found = torch.autograd.grad(replica(x).sum(), list(stack.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_transforms_of_torch_func_get_an_answer():
    stack = MomentumCapsules([RoutingCapsules(6, 4, 6, 4) for _ in range(2)]).double()
    x = torch.randn(2, 6, 4, dtype=torch.float64)
    expected = torch.autograd.grad(stack.forward_plain(inputs := x.clone().requires_grad_()).sum(), inputs)[0]
    with pytest.warns(UserWarning, match="torch.func"):
        found = torch.func.grad(lambda y: stack(y).sum())(x)
    torch.testing.assert_close(found, expected)


class Tanh(nn.Module):
    """A layer with registered weights."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh()


class Calls(nn.Module):
    """A layer that calls a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Adapted(nn.Module):
    """A frozen layer, and a buffer that is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.register_buffer("change", torch.zeros(4, 4).requires_grad_())

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.change


def elsewhere() -> nn.Linear:
    return nn.Linear(4, 4)


def hooked(hook: Callable[..., Tensor]) -> Tanh:
    layer = Tanh()
    layer.register_forward_hook(hook)
    return layer


def with_context() -> nn.Module:
    """A layer that uses what a part of the network outside of the stack computed."""
    layer, context = Tanh(), elsewhere()(torch.ones(4))
    return Calls(lambda x: layer(x) * context)


def in_a_list() -> nn.Module:
    layer = Calls(lambda x: layer.held[0](x))
    layer.held = [elsewhere()]
    return layer


def past_registration() -> nn.Module:
    layer = Calls(lambda x: layer.hidden(x))
    object.__setattr__(layer, "hidden", elsewhere())
    return layer


def of_another_layer(first: nn.Module) -> nn.Module:
    return Calls(lambda x: x @ first.linear.weight)


UNSEEN = {
    "a closure over a tensor": lambda _: Calls(partial(torch.matmul, other=torch.eye(4).requires_grad_())),
    "a function of a tensor": lambda _: Calls(partial(torch.matmul, other=2 * torch.eye(4).requires_grad_())),
    "a module in a list": lambda _: in_a_list(),
    "a module past registration": lambda _: past_registration(),
    "a layer's weight in another layer": of_another_layer,
    "what an encoder computed": lambda _: with_context(),
    "a hook with a weight": lambda _: hooked(lambda *given: given[-1] @ torch.eye(4).requires_grad_()),
    "a compiled closure": lambda _: torch.compile(in_a_list(), backend="aot_eager"),
    "a closure in a checkpoint": lambda _: Calls(
        partial(checkpoint, elsewhere().forward, use_reentrant=False)
    ),
    "a closure in a stack": lambda _: MomentumCapsules([Calls(elsewhere().forward)]),
}


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("make", UNSEEN.values(), ids=UNSEEN)
def test_a_weight_that_the_stack_cannot_see_is_refused(make):
    first = Tanh()
    stack, x = MomentumCapsules([first, make(first)]), torch.randn(2, 3, 4, requires_grad=True)
    with pytest.raises(ValueError, match=r"layer \d \(\w+\) uses a tensor of shape .* register it"):
        stack(x).sum().backward()


def normed(norm: Callable[[nn.Module], object]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        layer = Tanh()
        norm(layer.linear)
        return layer

    return make


def tied() -> nn.Module:
    one, other = Tanh(), Tanh()
    other.linear.weight = one.linear.weight
    return nn.Sequential(one, other)


def backward_hooked() -> nn.Module:
    layer = Tanh()
    layer.register_full_backward_hook(lambda _, gradients, __: tuple(2 * g for g in gradients))
    layer.linear.weight.register_hook(lambda gradient: 3 * gradient)
    return layer


def with_own_gradient(x: Tensor) -> Tensor:
    y = x.sin()
    if y.requires_grad:
        y.register_hook(lambda gradient: 2 * gradient)
    return y


SEEN = {
    "tied weights": tied,
    "weight norm": normed(parametrizations.weight_norm),
    "orthogonal weights": normed(parametrizations.orthogonal),
    "a trained buffer": Adapted,
    "backward hooks": backward_hooked,
    "a forward hook": lambda: hooked(lambda *given: 2 * given[-1]),
    "a hook of a tensor": lambda: nn.Sequential(Tanh(), Calls(with_own_gradient)),
    "a compiled layer": lambda: torch.compile(Tanh(), backend="aot_eager"),
    "a stack in a stack": lambda: MomentumCapsules([Tanh(), Tanh()]),
    "a constant in a list": lambda: Closure(torch.ones(3, 4, 4)),
}


def trained_tensors(stack: nn.Module) -> list[Tensor]:
    return [t for t in (*stack.parameters(), *stack.buffers()) if t.requires_grad]


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.filterwarnings("error:MomentumCapsules", "error:layer")
@pytest.mark.parametrize("make", SEEN.values(), ids=SEEN)
def test_weights_that_the_stack_can_see_get_their_gradients(make):
    stack, x = MomentumCapsules([make(), Tanh(), make()]), torch.randn(2, 3, 4, requires_grad=True)
    wanted = [x, *trained_tensors(stack)]
    found, expected = (
        torch.autograd.grad(run(x).square().sum(), wanted) for run in (stack, stack.forward_plain)
    )
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_where_weights_are_kept_without_their_gradient_intermediate_tensors_are_stored():
    stack, x = MomentumCapsules([normed(parametrizations.weight_norm)()]), torch.randn(2, 3, 4)
    expected = torch.autograd.grad(stack.forward_plain(x).sum(), list(stack.parameters()))
    with parametrize.cached(), pytest.warns(UserWarning, match=r"parametrize\.cached keeps weights"):
        found = torch.autograd.grad(stack(x).sum(), list(stack.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_forward_mode_gets_an_answer():
    stack, x, change = MomentumCapsules([Tanh(), Tanh()]).double(), *torch.randn(2, 2, 3, 4).double()
    with forward_ad.dual_level(), pytest.warns(UserWarning, match="forward mode"):
        found = forward_ad.unpack_dual(stack(forward_ad.make_dual(x, change))).tangent
    step = 1e-6 * change
    torch.testing.assert_close(found, (stack(x + step) - stack(x - step)) / 2e-6, rtol=1e-6, atol=1e-8)


class Caches(nn.Module):
    """A layer that keeps what it made of its weight when it was first called."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.kept = nn.Parameter(torch.eye(4)), None

    def forward(self, x: Tensor) -> Tensor:
        self.kept = self.weight.tanh() if self.kept is None else self.kept
        return x @ self.kept


def test_a_weight_without_a_gradient_is_told():
    stack, x = MomentumCapsules([Tanh(), Caches()]), torch.randn(2, 3, 4, requires_grad=True)
    with pytest.warns(UserWarning, match=r"layer 1 \(Caches\) did not use weight in the backward pass"):
        gradients = torch.autograd.grad(stack(x).sum(), [*stack.parameters()], allow_unused=True)
    assert [gradient is None for gradient in gradients] == [False, False, True]


def counting() -> nn.Module:
    numbers = itertools.count(1)
    return Calls(lambda x: x * next(numbers))


def with_own_generator() -> nn.Module:
    own = torch.Generator()
    return Calls(lambda x: x * torch.rand((), generator=own))


CHANGING = {
    "a counter": counting,
    "Python's random numbers": lambda: Calls(lambda x: x * random.random()),
    "a generator of its own": with_own_generator,
    "dropout that is switched off": lambda: nn.Dropout(0.5),
}


@pytest.mark.parametrize("make", CHANGING.values(), ids=CHANGING)
def test_a_layer_that_computes_something_else_the_second_time_is_told(make):
    """Gradients are wrong then; the velocity before the first layer, which is known to be zero, shows it."""
    stack, x = MomentumCapsules([Tanh(), make(), Tanh()]), torch.randn(2, 3, 4, requires_grad=True)
    output = stack(x).sum()
    stack.eval()
    with pytest.warns(UserWarning, match="could not invert its layers"):
        output.backward()


def test_more_layers_than_can_be_inverted_are_told():
    """In float64 nothing is rounded on the way, so differences grow from layer to layer."""
    stack, x, g = problem(131, J=32, E=8)
    with pytest.warns(UserWarning, match="could not invert its layers"):
        found = results(stack, stack, x, g)
    expected = results(stack.forward_plain, stack, x, g)
    assert max((a - b).norm() / b.norm() for a, b in zip(found[2:], expected[2:], strict=True)) > 1e-3
