"""Ways to agree: each definition against a loop, its couplings, its gradient."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from capsnb import em_routing, routing_by_agreement, scaled_distance_routing, squash
from capsnb.routing import FLOOR, VARIANCE_FLOOR, clip_votes, distance_scale

sizes = st.tuples(*[st.integers(1, 4)] * 4)


def votes_of(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def routing_in_loops(votes: torch.Tensor, iterations: int) -> torch.Tensor:
    """Procedure 1 of Sabour et al. 2017, one number at a time."""
    B, I, J, E = votes.shape
    v = torch.zeros(B, J, E, dtype=votes.dtype)
    for n in range(B):
        b = [[0.0] * J for _ in range(I)]
        for _ in range(iterations):
            c = [[math.exp(b[i][j]) / sum(math.exp(x) for x in b[i]) for j in range(J)] for i in range(I)]
            for j in range(J):
                s = [sum(c[i][j] * float(votes[n, i, j, e]) for i in range(I)) for e in range(E)]
                v[n, j] = squash(torch.tensor(s, dtype=votes.dtype))
            for i in range(I):
                for j in range(J):
                    b[i][j] += float((votes[n, i, j] * v[n, j]).sum())
    return v


@settings(max_examples=30)
@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_equals_the_procedure_in_loops(shape, iterations, seed):
    votes = votes_of(shape, seed)
    torch.testing.assert_close(routing_by_agreement(votes, iterations), routing_in_loops(votes, iterations))


@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_couplings_sum_to_one_over_output_capsules(shape, iterations, seed):
    _, couplings = routing_by_agreement(votes_of(shape, seed), iterations, return_couplings=True)
    assert couplings.shape == (iterations, *shape[:3])
    torch.testing.assert_close(couplings.sum(dim=-1), torch.ones_like(couplings[..., 0]))


@given(shape=sizes, seed=st.integers(0, 99))
def test_logits_are_votes_times_the_sum_of_earlier_outputs(shape, seed):
    votes = votes_of(shape, seed)
    earlier = sum(routing_by_agreement(votes, r) for r in (1, 2))
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    logits = torch.einsum("bije,bje->bij", votes, earlier)
    torch.testing.assert_close(couplings[2], logits.softmax(dim=-1))


@given(shape=sizes, seed=st.integers(0, 99))
def test_the_order_of_input_capsules_does_not_matter(shape, seed):
    votes = votes_of(shape, seed)
    torch.testing.assert_close(routing_by_agreement(votes), routing_by_agreement(votes.flip(1)))


def test_the_first_couplings_are_uniform():
    votes = votes_of((2, 5, 4, 3))
    torch.testing.assert_close(routing_by_agreement(votes, 1), squash(votes.sum(1) / 4))


def test_agreement_gathers_couplings():
    agree = torch.tensor([1.0, 0.0]).expand(6, 2)
    scatter = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, -1]])
    votes = torch.stack([agree, scatter], dim=1)[None]
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    to_the_agreed = couplings[:, 0, :, 0].mean(dim=-1)
    assert to_the_agreed[0] == 0.5 and to_the_agreed[1] < to_the_agreed[2]


def test_gradcheck_through_all_iterations():
    votes = votes_of((2, 3, 2, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda u: routing_by_agreement(u, 3, detach=False), (votes,))


def test_by_default_the_earlier_iterations_are_constants():
    votes = votes_of((2, 3, 4, 5)).requires_grad_()
    _, couplings = routing_by_agreement(votes, 3, return_couplings=True)
    last_step = squash(torch.einsum("bij,bije->bje", couplings[-1], votes))
    weights = torch.randn_like(last_step)
    (expected,) = torch.autograd.grad((last_step * weights).sum(), votes)
    (found,) = torch.autograd.grad((routing_by_agreement(votes, 3) * weights).sum(), votes)
    (full,) = torch.autograd.grad((routing_by_agreement(votes, 3, detach=False) * weights).sum(), votes)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(full, expected)


@pytest.mark.parametrize(
    "wrong", [{"votes": torch.ones(2, 3, 4)}, {"votes": torch.ones(1, 1, 1, 1), "iterations": 0}]
)
def test_bad_arguments_are_named(wrong):
    with pytest.raises(ValueError, match=r"\[B, I, J, E\]|iterations"):
        routing_by_agreement(**wrong)


def problem(B: int, I: int, J: int, E: int, D: int = 3, seed: int = 0):
    """Votes, capsules, activations in (0, 1), and one number or vector for each output capsule."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw(B, I, J, E), draw(B, I, D), draw(B, I).sigmoid(), draw(J, E), draw(J), draw(J)


def scaled_distances_in_loops(votes, capsules, iterations, bias):
    """The algorithm of Peer et al. 2018, one image and one number at a time."""
    B, I, J, E = votes.shape
    out = torch.zeros(B, J, E, dtype=votes.dtype)
    for n in range(B):
        u_hat = [[[0.0] * E for _ in range(J)] for _ in range(I)]
        for i in range(I):
            allowed = math.sqrt(sum(float(x) ** 2 for x in capsules[n, i]))
            for j in range(J):
                long = math.sqrt(sum(float(x) ** 2 for x in votes[n, i, j]))
                u_hat[i][j] = [min(allowed, long) * float(x) / long for x in votes[n, i, j]]
        b = [[0.0] * J for _ in range(I)]
        for _ in range(iterations):
            for j in range(J):
                c = [math.exp(b[i][j]) / sum(math.exp(x) for x in b[i]) for i in range(I)]
                s = [sum(c[i] * u_hat[i][j][e] for i in range(I)) + float(bias[j, e]) for e in range(E)]
                out[n, j] = squash(torch.tensor(s, dtype=votes.dtype))
            d = [[math.dist(u_hat[i][j], out[n, j].tolist()) for j in range(J)] for i in range(I)]
            d_o = sum(map(sum, d)) / (I * J)
            d_p = d_o / 2
            t = (math.log(0.9 * (J - 1)) - math.log(1 - 0.9)) / (d_p - d_o) if J > 1 else 0.0
            b = [[t * d[i][j] for j in range(J)] for i in range(I)]
    return out


def em_in_loops(votes, activations, iterations, beta_use, beta_activation, temperature):
    """Procedure 1 of Hinton et al. 2018, one number at a time, with densities instead of their logarithms."""
    B, I, J, E = votes.shape
    poses, active = torch.zeros(B, J, E, dtype=votes.dtype), torch.zeros(B, J, dtype=votes.dtype)
    for n in range(B):
        R = [[1 / J] * J for _ in range(I)]
        for iteration in range(1, iterations + 1):
            mu, var, a = [[0.0] * E for _ in range(J)], [[0.0] * E for _ in range(J)], [0.0] * J
            for j in range(J):
                r = [R[i][j] * float(activations[n, i]) for i in range(I)]
                mass = sum(r) + FLOOR  # a cloud that nobody is left in lies at zero, instead of at 0/0
                for h in range(E):
                    votes_h = [float(votes[n, i, j, h]) for i in range(I)]
                    mu[j][h] = sum(x * y for x, y in zip(r, votes_h, strict=True)) / mass
                    spread = sum(x * (y - mu[j][h]) ** 2 for x, y in zip(r, votes_h, strict=True))
                    var[j][h] = spread / mass + VARIANCE_FLOOR
                cost = sum(
                    (float(beta_use[j]) + math.log(math.sqrt(var[j][h]))) * sum(r) / (I / J) for h in range(E)
                )
                a[j] = 1 / (
                    1 + math.exp(-temperature * iteration / iterations * (float(beta_activation[j]) - cost))
                )
            for i in range(I):
                p = [
                    a[j]
                    * math.prod(
                        math.exp(-((float(votes[n, i, j, h]) - mu[j][h]) ** 2) / (2 * var[j][h]))
                        / math.sqrt(2 * math.pi * var[j][h])
                        for h in range(E)
                    )
                    for j in range(J)
                ]
                R[i] = [x / sum(p) for x in p]
        poses[n], active[n] = torch.tensor(mu), torch.tensor(a)
    return poses, active


@settings(max_examples=30)
@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_scaled_distances_equal_the_algorithm_in_loops(shape, iterations, seed):
    votes, capsules, _, bias, *_ = problem(*shape, seed=seed)
    found = scaled_distance_routing(votes, capsules, iterations, bias=bias)
    expected = scaled_distances_in_loops(votes, capsules, iterations, bias)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)  # the loops have no epsilon


@settings(max_examples=30)
@given(
    shape=st.tuples(st.integers(1, 2), st.integers(2, 5), st.integers(1, 4), st.integers(1, 4)),
    iterations=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_em_equals_the_procedure_in_loops(shape, iterations, seed):
    votes, _, activations, _, beta_use, beta_activation = problem(*shape, seed=seed)
    found = em_routing(
        votes,
        activations,
        iterations,
        beta_use=beta_use,
        beta_activation=beta_activation,
        inverse_temperature=0.3,
    )
    expected = em_in_loops(votes, activations, iterations, beta_use, beta_activation, 0.3)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)


def scaled(votes, capsules, activations, bias, beta_use, beta_activation, **options):
    return scaled_distance_routing(votes, capsules, bias=bias, **options)


def em(votes, capsules, activations, bias, beta_use, beta_activation, **options):
    return em_routing(votes, activations, beta_use=beta_use, beta_activation=beta_activation, **options)


both = pytest.mark.parametrize("way", [scaled, em])


@both
@settings(max_examples=30)
@given(shape=sizes, iterations=st.integers(1, 4), seed=st.integers(0, 99))
def test_attention_of_other_ways_sums_to_one_over_output_capsules(way, shape, iterations, seed):
    couplings = way(*problem(*shape, seed=seed), iterations=iterations, return_couplings=True)[-1]
    assert couplings.shape == (iterations, *shape[:3])
    torch.testing.assert_close(couplings.sum(dim=-1), torch.ones_like(couplings[..., 0]))
    torch.testing.assert_close(couplings[0], torch.full_like(couplings[0], 1 / shape[2]))


@both
@settings(max_examples=30)
@given(shape=sizes, seed=st.integers(0, 99))
def test_images_and_the_order_of_capsules_do_not_matter_to_other_ways(way, shape, seed):
    votes, capsules, activations, *others = problem(*shape, seed=seed)
    outputs = way(votes, capsules, activations, *others)
    turned = way(votes.flip(1), capsules.flip(1), activations.flip(1), *others)
    alone = way(votes[:1], capsules[:1], activations[:1], *others)
    torch.testing.assert_close(turned, outputs)
    first = tuple(x[:1] for x in outputs) if isinstance(outputs, tuple) else outputs[:1]
    torch.testing.assert_close(alone, first)


@both
def test_gradcheck_of_other_ways(way):
    """Through all iterations, and of a single one, where nothing is detached."""
    leaves = [x.requires_grad_() for x in problem(2, 3, 2, 2)]
    assert torch.autograd.gradcheck(way, leaves)
    assert torch.autograd.gradcheck(lambda *x: way(*x, iterations=1, detach=True), leaves)


@both
def test_detached_other_ways_hold_their_earlier_iterations_constant(way):
    leaves = [x.requires_grad_() for x in problem(2, 4, 3, 2)]
    first = (lambda out: out) if way is scaled else (lambda out: out[0])
    couplings = way(*leaves, return_couplings=True)[-1][-1]
    votes, capsules, activations, bias, *_ = leaves
    if way is scaled:
        allowed, long = capsules.norm(dim=-1)[:, :, None, None], votes.norm(dim=-1, keepdim=True)
        heard = votes / long * torch.minimum(allowed, long)
        last = squash(torch.einsum("bij,bije->bje", couplings, heard) + bias)
    else:
        r = couplings * activations[:, :, None]
        last = torch.einsum("bij,bije->bje", r, votes) / r.sum(1)[..., None]
    weights = torch.randn_like(last)
    (expected,) = torch.autograd.grad((last * weights).sum(), votes)
    (found,) = torch.autograd.grad((first(way(*leaves, detach=True)) * weights).sum(), votes)
    (full,) = torch.autograd.grad((first(way(*leaves)) * weights).sum(), votes)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(full, expected, rtol=1e-2)


@both
@pytest.mark.parametrize("J", [1, 3])
def test_silence_gives_finite_capsules_and_gradients(way, J):
    """All votes, capsules and activations 0, and no distance anywhere."""
    leaves = [torch.zeros_like(x).requires_grad_() for x in problem(2, 3, J, 2)]
    outputs = way(*leaves)
    total = sum(x.sum() for x in (outputs if isinstance(outputs, tuple) else [outputs]))
    for x, gradient in zip(leaves, torch.autograd.grad(total, leaves, allow_unused=True), strict=True):
        assert gradient is None or gradient.isfinite().all(), x.shape


@both
def test_half_precision_is_computed_in_float32_by_other_ways(way):
    inputs = [x.half() for x in problem(2, 5, 3, 4)]
    found, exact = way(*inputs), way(*(x.float() for x in inputs))
    for x, y in zip(found, exact, strict=True):
        assert x.dtype == torch.float16
        torch.testing.assert_close(x, y.half())


def test_votes_are_never_longer_than_their_capsules():
    votes, capsules, *_ = problem(3, 5, 4, 6)
    lengths = clip_votes(votes, capsules).norm(dim=-1)
    assert (lengths <= capsules.norm(dim=-1)[:, :, None] * (1 + 1e-6)).all()
    short = votes * 1e-3 * capsules.norm(dim=-1)[:, :, None, None]
    torch.testing.assert_close(clip_votes(short, capsules), short)


@given(J=st.integers(2, 40), mean=st.floats(1e-3, 100))
def test_a_parent_at_half_the_mean_distance_is_given_nine_tenths(J, mean):
    t = distance_scale(torch.tensor([mean], dtype=torch.float64), J)
    assert t < 0, "what is near is heard, at any distance"
    logits = t * torch.tensor([mean / 2] + [mean] * (J - 1), dtype=torch.float64)
    assert logits.softmax(0)[0] == pytest.approx(0.9)


def test_the_scale_is_finite_for_one_parent_and_for_no_distance():
    votes, capsules, _, bias, *_ = problem(2, 3, 1, 4)
    torch.testing.assert_close(
        scaled_distance_routing(votes, capsules, bias=bias), squash(clip_votes(votes, capsules).sum(1) + bias)
    )
    agreed = scaled_distance_routing(torch.zeros(1, 3, 2, 4), torch.ones(1, 3, 4), return_couplings=True)
    assert torch.equal(agreed[1], torch.full((3, 1, 3, 2), 0.5))


def test_what_is_near_is_heard_more():
    agree = torch.tensor([1.0, 0.0]).expand(6, 2)
    scatter = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [0.7, 0.7], [-0.7, -0.7]])
    votes = torch.stack([agree, scatter], dim=1)[None]
    for couplings in (
        scaled_distance_routing(votes, torch.ones(1, 6, 2), return_couplings=True)[-1],
        em_routing(
            votes,
            torch.ones(1, 6),
            beta_use=torch.zeros(2),
            beta_activation=torch.zeros(2),
            return_couplings=True,
        )[-1],
    ):
        to_the_agreed = couplings[:, 0, :, 0].mean(dim=-1)
        assert to_the_agreed[0] == 0.5 and to_the_agreed[2] > 0.6


def test_tight_clouds_are_active_and_wide_ones_are_not():
    votes = torch.randn(1, 50, 2, 4, generator=torch.Generator().manual_seed(0))
    votes[:, :, 0] = 1 + 0.1 * votes[:, :, 0]
    votes[:, :, 1] *= 3
    betas = {"beta_use": torch.zeros(2), "beta_activation": torch.zeros(2)}
    _, activations = em_routing(votes, torch.ones(1, 50), 1, **betas)
    assert activations[0, 0] > 0.9 and activations[0, 1] < 0.1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"votes": torch.ones(2, 3, 4)}, r"\[B, I, J, E\]"),
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        (
            {"capsules": torch.ones(2, 4, 5)},
            r"capsules of shape \[2, 3, D\] are expected, got \(2, 4, 5\)",
        ),
        ({"bias": torch.ones(4)}, r"bias of shape \[4, 2\] is expected, got \(4,\)"),
    ],
)
def test_bad_arguments_of_scaled_distances_are_named(change, said):
    with pytest.raises(ValueError, match=said):
        scaled_distance_routing(
            **{"votes": torch.ones(2, 3, 4, 2), "capsules": torch.ones(2, 3, 5), **change}
        )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"votes": torch.ones(2, 3, 4)}, r"\[B, I, J, E\]"),
        ({"iterations": 0}, "iterations must be 1 or more, got 0"),
        ({"activations": torch.ones(2, 4)}, r"activations of shape \[2, 3\] are expected, got \(2, 4\)"),
        ({"beta_use": torch.ones(3)}, r"shape \[4\] are expected, got \(3,\) and \(4,\)"),
        ({"inverse_temperature": 0.0}, "inverse_temperature must be above 0, got 0.0"),
    ],
)
def test_bad_arguments_of_em_are_named(change, said):
    good = {
        "votes": torch.ones(2, 3, 4, 2),
        "activations": torch.ones(2, 3),
        "beta_use": torch.ones(4),
        "beta_activation": torch.ones(4),
    }
    with pytest.raises(ValueError, match=said):
        em_routing(**{**good, **change})
