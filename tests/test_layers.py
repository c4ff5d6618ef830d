"""Capsule layers: which numbers make a capsule, which weights make a vote, and how long capsules are at the start."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from capsnb import (
    PrimaryCapsules,
    RoutingCapsules,
    em_routing,
    routing_by_agreement,
    scaled_distance_routing,
    squash,
)
from capsnb.layers import add_identity_, default_weight_std


@given(
    types=st.integers(1, 3),
    dim=st.integers(1, 4),
    side=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    B=st.integers(1, 2),
)
def test_a_capsule_is_the_channels_of_one_location(types, dim, side, B):
    layer = PrimaryCapsules(types * dim, types, dim, kernel_size=1, stride=1)
    with torch.no_grad():  # an identity convolution: what comes out is what went in, arranged
        layer.conv.weight.copy_(torch.eye(types * dim)[:, :, None, None])
        layer.conv.bias.zero_()
    H, W = side
    x = torch.arange(B * types * dim * H * W, dtype=torch.float32).reshape(B, types * dim, H, W)
    capsules = layer(x)
    for b in range(B):
        for t in range(types):
            for h in range(H):
                for w in range(W):
                    expected = squash(x[b, t * dim : (t + 1) * dim, h, w])
                    torch.testing.assert_close(capsules[b, (t * H + h) * W + w], expected)


@given(sizes=st.tuples(*[st.integers(1, 4)] * 5), seed=st.integers(0, 99))
def test_votes_are_one_matrix_for_each_pair(sizes, seed):
    B, I, D, J, E = sizes
    torch.manual_seed(seed)
    layer = RoutingCapsules(I, D, J, E).double()
    u = torch.randn(B, I, D, dtype=torch.float64)
    votes = layer.votes(u)
    for i in range(I):
        for j in range(J):
            torch.testing.assert_close(votes[:, i, j], u[:, i] @ layer.weight[i, j].T)


def test_a_layer_routes_its_votes():
    layer = RoutingCapsules(6, 4, 3, 5, iterations=2, backend="fused")
    u = torch.randn(2, 6, 4)
    torch.testing.assert_close(layer(u), routing_by_agreement(layer.votes(u), 2))


@pytest.mark.parametrize("backend", ["eager", "fused", "auto"])
def test_a_layer_routes_its_votes_by_distance(backend):
    layer = RoutingCapsules(6, 4, 3, 5, iterations=2, routing="sda", backend=backend).double()
    u = squash(torch.randn(2, 6, 4, dtype=torch.float64))
    assert layer.bias.shape == (3, 5) and (layer.bias == torch.tensor(0.1)).all()
    expected = scaled_distance_routing(layer.votes(u), u, 2, bias=layer.bias)
    torch.testing.assert_close(layer(u), expected)


@pytest.mark.parametrize("backend", ["eager", "fused", "auto"])
def test_a_layer_routes_its_votes_by_expectation_maximisation(backend):
    torch.manual_seed(0)
    # Long votes: an epsilon under the root of a length is then nothing beside it.
    layer = RoutingCapsules(6, 4, 3, 5, iterations=2, routing="em", backend=backend, weight_std=1.0).double()
    u = squash(torch.randn(2, 6, 4, dtype=torch.float64))
    betas = {"beta_use": layer.beta_use, "beta_activation": layer.beta_activation}
    poses, activations = em_routing(layer.votes(u), u.norm(dim=-1), 2, **betas)
    v = layer(u)
    assert layer.beta_use.shape == layer.beta_activation.shape == (3,)
    torch.testing.assert_close(v.norm(dim=-1), activations, rtol=1e-5, atol=0)
    directions = torch.nn.functional.normalize(poses, dim=-1)
    torch.testing.assert_close(v, activations[..., None] * directions, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("routing", "detached"), [("rba", True), ("sda", False), ("em", False)])
def test_what_is_held_constant_is_as_the_authors_did_and_can_be_chosen(routing, detached):
    torch.manual_seed(0)
    u = squash(torch.randn(2, 6, 4, dtype=torch.float64)).requires_grad_()
    gradients = {}
    layer = RoutingCapsules(6, 4, 3, 5, routing=routing).double()
    for detach in (None, True, False):
        other = RoutingCapsules(6, 4, 3, 5, routing=routing, detach=detach).double()
        other.load_state_dict(layer.state_dict())
        (gradients[detach],) = torch.autograd.grad(other(u).square().sum(), u)
    assert torch.equal(gradients[None], gradients[detached])
    assert not torch.allclose(gradients[True], gradients[False])


@pytest.mark.parametrize("routing", ["rba", "sda", "em"])
def test_gradients_reach_parameters_and_inputs(routing):
    layer = RoutingCapsules(6, 4, 3, 5, backend="fused", routing=routing)
    u = torch.randn(2, 6, 4, requires_grad=True)
    layer(u).square().sum().backward()
    for gradient in (u.grad, *(p.grad for p in layer.parameters())):
        assert gradient is not None and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(("I", "J", "E"), [(1152, 10, 16), (288, 32, 8), (32, 32, 8), (8, 5, 4)])
def test_the_formula_gives_uniform_sums_of_length_one(I, J, E):
    torch.manual_seed(0)
    u = 0.3 * torch.nn.functional.normalize(torch.randn(64, I, 8), dim=-1)
    std = default_weight_std(I, J, E, in_length=0.3)
    s = RoutingCapsules(I, 8, J, E, weight_std=std).votes(u).sum(1) / J
    assert abs(s.square().sum(-1).mean().sqrt() - 1) < 0.2
    assert RoutingCapsules(I, 8, J, E).weight.std().item() == pytest.approx(
        default_weight_std(I, J, E), rel=0.1
    )


def after_16_layers(capsules: int, dim: int, std: float | None = None, routing: str = "rba") -> torch.Tensor:
    torch.manual_seed(0)
    u = torch.nn.functional.normalize(torch.randn(8, capsules, dim), dim=-1) / 2
    with torch.no_grad():
        for _ in range(16):
            u = RoutingCapsules(capsules, dim, capsules, dim, weight_std=std, routing=routing)(u)
    return u


def length_after_16_layers(*arguments, **options) -> float:
    return after_16_layers(*arguments, **options).norm(dim=-1).mean().item()


@pytest.mark.parametrize("capsules", [8, 32, 64])
@pytest.mark.parametrize("dim", [4, 8, 16])
def test_lengths_are_of_order_one_after_16_layers(capsules, dim):
    assert 0.2 < length_after_16_layers(capsules, dim) < 0.9


@pytest.mark.parametrize(("capsules", "dim"), [(8, 4), (32, 8), (64, 16)])
def test_other_ways_are_alive_after_16_layers(capsules, dim):
    u = after_16_layers(capsules, dim, routing="em")
    assert 0.2 < u.norm(dim=-1).mean() < 0.95
    assert (u - u.mean(0)).norm(dim=-1).mean() > 0.2, "images can still be told apart"
    u = after_16_layers(capsules, dim, routing="sda")
    assert 0.02 < u.norm(dim=-1).mean() < 0.9
    # What the docstring says of "sda": the bias speaks, the image does not.
    assert (u - u.mean(0)).norm(dim=-1).mean() < 1e-5


def test_the_paper_s_weights_are_silent_after_16_layers():
    assert length_after_16_layers(32, 8, std=0.01) < 1e-6


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"in_capsules": 0}, "in_capsules"),
        ({"out_dim": -1}, "out_dim"),
        ({"iterations": 0}, "iterations"),
        ({"routing": "vote"}, "routing 'vote'"),
        ({"backend": "magic"}, "backend 'magic'"),
        ({"routing": "sda", "backend": "native"}, "backend 'native' has routing 'rba' only, not 'sda'"),
        ({"routing": "em", "backend": "triton"}, "'triton' has .*'em'; choose one of eager, fused, auto"),
    ],
)
def test_bad_sizes_and_names_are_named(arguments, named):
    good = {"in_capsules": 2, "in_dim": 2, "out_capsules": 2, "out_dim": 2}
    with pytest.raises(ValueError, match=named):
        RoutingCapsules(**{**good, **arguments})


def test_capsules_of_another_shape_are_named():
    with pytest.raises(ValueError, match=r"\[B, 6, 4\] are expected, got \(2, 6, 5\)"):
        RoutingCapsules(6, 4, 3, 5)(torch.randn(2, 6, 5))


@pytest.mark.parametrize("iterations", [1, 3])
def test_a_layer_from_the_identity_leaves_directions_as_they_are(iterations):
    layer = RoutingCapsules(5, 4, 5, 4, iterations=iterations, weight_std=0.0)
    add_identity_(layer, gain=1.5)
    expected = torch.zeros(5, 5, 4, 4)
    for j in range(5):
        expected[j, j] = 1.5 * 5 * torch.eye(4)
    torch.testing.assert_close(layer.weight.detach(), expected)
    u = torch.randn(3, 5, 4)
    v = layer(u)
    torch.testing.assert_close(torch.cosine_similarity(u, v, dim=-1), torch.ones(3, 5), rtol=0, atol=1e-5)
    if iterations == 1:
        torch.testing.assert_close(v, squash(1.5 * u))


def test_a_layer_that_changes_capsules_has_no_identity():
    with pytest.raises(ValueError, match="maps 5 capsules of 4 numbers to 3 of 4 has no identity"):
        add_identity_(RoutingCapsules(5, 4, 3, 4))
