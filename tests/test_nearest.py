"""The nearest simplex ETF against the trust region and the dense Proposition 1 of the paper, mpmath and numpy."""

import functools
import math

import mpmath
import numpy as np
import pytest
import torch

from labkit import etf, reference
from labkit.nearest import nearest_etf, start_frame

DELTAS = [1e-4, 1e-3, 1e-2, 1.0]


def unit_means(d, C, seed=0, batch=(), dtype=torch.float64):
    """Centred Gaussian class means of unit Frobenius norm, which is how the paper hands them over."""
    means = torch.randn(*batch, d, C, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    means = means - means.mean(-1, keepdim=True)
    return (means / torch.linalg.matrix_norm(means, keepdim=True)).to(dtype)


def haar(d, C, seed=100, dtype=torch.float64):
    return etf.haar_frame(d, C, torch.Generator().manual_seed(seed), dtype=dtype)


def exact_etf(d, C, seed=5):
    """Class means that already are a simplex ETF, in a random direction, and that ETF's frame."""
    frame = haar(d, C, seed)
    return etf.simplex_etf(C, frame=frame) / math.sqrt(C), frame


def relative(value, expected):
    return ((value - expected).norm() / expected.norm()).item()


def orthonormality_error(frame):
    frame = frame.double()
    return torch.linalg.matrix_norm(frame.mT @ frame - torch.eye(frame.shape[-1], dtype=torch.float64)).max().item()


# Forward: the paper's own solver


@functools.cache
def solved(C, kind):
    """A problem, and its solution by Riemannian trust region; the slow part, so once for all tests."""
    d = C + 6
    means = unit_means(d, C)
    prox = start_frame(means) if kind == "start" else haar(d, C)
    # A start off the answer: with the start frame as prox, the solver would otherwise begin where it should end.
    start = haar(d, C, seed=7) if C <= 20 else prox
    return means, prox, reference.trust_region(means, prox, 1e-3, start=start, min_gradient_norm=1e-10)


@pytest.mark.parametrize("kind", ["start", "haar"])
@pytest.mark.parametrize("C", [5, 10, 20, 50])
def test_solution_of_the_trust_region(C, kind):
    means, prox, expected = solved(C, kind)
    assert torch.linalg.matrix_norm(nearest_etf(means, prox, 1e-3) - expected) < 1e-7


@pytest.mark.parametrize("kind", ["start", "haar"])
@pytest.mark.parametrize("C", [5, 10, 20, 50])
def test_objective_is_never_above_that_of_the_trust_region(C, kind):
    means, prox, other = solved(C, kind)
    value, theirs = (reference.objective(means, prox, 1e-3, u) for u in (nearest_etf(means, prox, 1e-3), other))
    assert value <= theirs + 1e-12


def test_the_references_without_a_prox():
    means = unit_means(7, 4)
    found = reference.trust_region(means, None, 0)
    torch.testing.assert_close(etf.of_frame(found), etf.of_frame(nearest_etf(means, delta=0)), rtol=0, atol=1e-8)
    value = (means - etf.of_frame(found) / math.sqrt(4)).square().sum()
    assert reference.objective(means, None, 0, found).item() == pytest.approx(value.item(), abs=1e-12)
    for call in (reference.trust_region, reference.objective, lambda *a: reference.proposition1_vjp(*a, found)):
        with pytest.raises(ValueError, match=r"delta=0.1 there must be a prox"):
            call(means, None, 0.1, found)
    with pytest.raises(ValueError, match="delta must be a finite number above 0"):  # G has no inverse
        reference.proposition1_vjp(means, None, 0, found, found)


@pytest.mark.parametrize("delta", [1e-4, 1e-2, 1.0, 1e3])
def test_solution_is_the_polar_factor(delta):
    # orthogonal Procrustes, by numpy's SVD
    means, prox = unit_means(12, 8), haar(12, 8)
    b = 2 / math.sqrt(7) * (means - means.mean(-1, keepdim=True)) + delta * prox
    left, _, right = np.linalg.svd(b.numpy(), full_matrices=False)
    torch.testing.assert_close(nearest_etf(means, prox, delta), torch.from_numpy(left @ right), rtol=0, atol=1e-11)


def test_uncentred_means_are_centred():
    means, prox = unit_means(9, 6), haar(9, 6)
    shifted = means + torch.randn(9, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(nearest_etf(shifted, prox), nearest_etf(means, prox), rtol=0, atol=1e-11)


def test_square_frame():
    # d = C is the smallest dimension there is. Orthogonal matrices come in two pieces, and a trust region never leaves
    # the one it starts in: the solution is the better of two runs.
    means, prox = unit_means(6, 6), haar(6, 6)
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    runs = [
        reference.trust_region(means, prox, 1e-2, start=start, min_gradient_norm=1e-10)
        for start in (prox, mirror @ prox)
    ]
    expected = min(runs, key=lambda u: reference.objective(means, prox, 1e-2, u))
    assert torch.linalg.matrix_norm(nearest_etf(means, prox, 1e-2) - expected) < 1e-7


# Backward: the paper's dense formula, mpmath where that formula is too coarse, finite differences


def gradients(means, prox, delta, seed=3):
    """Gradient by nearest_etf and by the dense Proposition 1, for a random cotangent."""
    x = means.clone().requires_grad_()
    u = nearest_etf(x, prox, delta)
    cotangent = torch.randn(u.shape, generator=torch.Generator().manual_seed(seed), dtype=u.dtype)
    (ours,) = torch.autograd.grad(u, x, cotangent)
    return ours, reference.proposition1_vjp(means, prox, delta, u, cotangent)


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("kind", ["start", "haar"])
@pytest.mark.parametrize("C", [10, 20])
def test_gradient_of_proposition_1(C, kind, delta):
    means = unit_means(C + 6, C)
    prox = start_frame(means) if kind == "start" else haar(C + 6, C)
    assert relative(*gradients(means, prox, delta)) < 1e-9


@pytest.mark.parametrize("delta", DELTAS)
@pytest.mark.parametrize("own_frame", [True, False])
def test_gradient_at_an_exact_etf(own_frame, delta):
    # Singular values repeat there, where the gradient of an SVD is NaN; and there training converges to.
    means, frame = exact_etf(16, 10)
    ours, dense = gradients(means, frame if own_frame else haar(16, 10), delta)
    assert ours.isfinite().all()
    assert relative(ours, dense) < 1e-9


def mpmath_vjp(means, prox, delta, cotangent):
    """The gradient at 50 digits: polar factor by eigenvectors, the Sylvester equation as one C²×C² linear system."""
    d, C = means.shape
    with mpmath.workdps(50):
        h, u_prox, y = (mpmath.matrix(t.tolist()) for t in (means, prox, cotangent))
        p, scale = mpmath.eye(C) - mpmath.ones(C) / C, 2 / mpmath.sqrt(C - 1)
        b = scale * h * p + mpmath.mpf(delta) * u_prox
        squared, v = mpmath.eigsy(b.T * b)
        s = v * mpmath.diag([mpmath.sqrt(x) for x in squared]) * v.T
        s_inverse = s**-1
        u = b * s_inverse
        right = u.T * y - y.T * u
        system = mpmath.zeros(C * C)  # S X + X S = right
        for i in range(C):
            for j in range(C):
                for k in range(C):
                    system[C * i + j, C * k + j] += s[i, k]
                    system[C * i + j, C * i + k] += s[k, j]
        solution = mpmath.lu_solve(system, mpmath.matrix([right[i, j] for i in range(C) for j in range(C)]))
        x = mpmath.matrix([[solution[C * i + j] for j in range(C)] for i in range(C)])
        grad = scale * ((y - u * (u.T * y)) * s_inverse + u * x) * p
        return torch.tensor([[float(grad[i, j]) for j in range(C)] for i in range(d)], dtype=torch.float64)


@pytest.mark.parametrize("delta", [1e-4, 1e-3, 1.0])
def test_gradient_against_50_digits(delta):
    # At C = 5, δ = 1e-4 the dense formula in float64 is itself only good to 2e-9.
    means, prox = unit_means(8, 5), haar(8, 5)
    cotangent = torch.randn(8, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = means.clone().requires_grad_()
    (ours,) = torch.autograd.grad(nearest_etf(x, prox, delta), x, cotangent)
    assert relative(ours, mpmath_vjp(means, prox, delta, cotangent)) < 1e-9


@pytest.mark.parametrize("smallest", [1e-2, 1e-4, 1e-6])
def test_gradient_where_the_means_nearly_lack_a_direction(smallest):
    # S is as ill-conditioned as they are, and here the projection P does not hide its smallest eigenvalue.
    left, _, right = torch.linalg.svd(unit_means(8, 5), full_matrices=False)
    means = left @ torch.diag(torch.tensor([0.8, 0.5, 0.3, smallest, 0], dtype=torch.float64)) @ right
    prox = start_frame(means)
    cotangent = torch.randn(8, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    x = means.clone().requires_grad_()
    (ours,) = torch.autograd.grad(nearest_etf(x, prox, 1e-4), x, cotangent)
    assert relative(ours, mpmath_vjp(means, prox, 1e-4, cotangent)) < 1e-9


@pytest.mark.parametrize("delta", [1e-2, 1.0])
@pytest.mark.parametrize("where", ["random", "exact ETF"])
def test_gradcheck(where, delta):
    means, prox = (unit_means(6, 4, batch=(2,)), haar(6, 4)) if where == "random" else exact_etf(6, 4)
    assert torch.autograd.gradcheck(lambda x: nearest_etf(x, prox, delta), means.requires_grad_())


def test_gradcheck_without_prox():
    # The start frame moves with the means, but counts as a constant: at its own solution it makes no difference to U P.
    means = unit_means(6, 4).requires_grad_()
    prox = start_frame(means)
    ours, other = (torch.autograd.grad(nearest_etf(means, q)[0, 0], means)[0] for q in (None, prox))
    assert torch.equal(ours, other)


def test_gradient_sums_to_zero_over_classes():
    # Adding one vector to all means changes nothing.
    ours, _ = gradients(unit_means(9, 6), haar(9, 6), 1e-3)
    assert ours.sum(-1).abs().max() < 1e-10 * ours.abs().max()


@pytest.mark.parametrize("d, C, delta", [(6, 4, 0.1), (6, 4, 1.0), (4, 4, 0.1), (3, 4, 0.1), (6, 4, 0)])
@pytest.mark.parametrize("where", ["random", "exact ETF"])
def test_second_derivative(d, C, delta, where):
    means = unit_means(d, C) if where == "random" else etf.simplex_etf(C, d, dtype=torch.float64) / math.sqrt(C)
    prox = None if delta == 0 else start_frame(unit_means(d, C, seed=2))
    assert torch.autograd.gradgradcheck(lambda x: nearest_etf(x, prox, delta), means.requires_grad_())


def test_third_derivative_and_batches_in_transforms():
    means, prox = unit_means(4, 3, batch=(5,)), haar(4, 3)
    value = lambda m: nearest_etf(m, prox, 0.3)[0].sum()
    slope = lambda m: torch.func.grad(value)(m)[0, 1]
    each = torch.func.vmap(torch.func.grad(slope))(means)
    step = 1e-5 * torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for k in range(5):
        expected = (slope(means[k] + step) - slope(means[k] - step)) / 2
        assert (each[k] * step).sum().item() == pytest.approx(expected.item(), rel=1e-6)


# d = C − 1


@pytest.mark.parametrize("delta", [1e-3, 0.3])
def test_fewest_dimensions_against_an_svd(delta):
    C = 6
    means, prox = unit_means(C - 1, C), start_frame(unit_means(C - 1, C, seed=3))
    basis = etf.simplex_basis(C, torch.float64)
    b = (2 / math.sqrt(C - 1) * means + delta * prox) @ basis
    left, _, right = np.linalg.svd(b.numpy())
    u = nearest_etf(means, prox, delta)
    torch.testing.assert_close(u @ basis, torch.from_numpy(left @ right), rtol=0, atol=1e-11)
    torch.testing.assert_close(u.mT @ u, torch.eye(C, dtype=torch.float64) - 1 / C, rtol=0, atol=1e-12)
    cotangent = torch.randn(C - 1, C, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: (nearest_etf(x, prox, delta) * cotangent).sum(), means.requires_grad_())


def test_start_frame_in_the_fewest_dimensions():
    # The start frame at d = C − 1 could be anything without a test seeing it.
    C, means, basis = 6, unit_means(5, 6), etf.simplex_basis(6, torch.float64)
    v = start_frame(means) @ basis
    torch.testing.assert_close(v @ v.mT, torch.eye(5, dtype=torch.float64))
    best = torch.linalg.svdvals(means @ basis).sum()
    assert (v * (means @ basis)).sum().item() == pytest.approx(best.item(), rel=1e-12)
    torch.testing.assert_close(nearest_etf(means), start_frame(means), rtol=0, atol=1e-11)
    same = start_frame(torch.zeros(5, C, dtype=torch.float64), etf.frame_of(5, C))
    torch.testing.assert_close(same, etf.frame_of(5, C).double(), rtol=0, atol=1e-6)


# Frames that are none


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_prox_that_is_not_orthonormal_is_refused(dtype):
    # prox = 100 F passed without a word.
    means, prox = unit_means(9, 6, dtype=dtype), haar(9, 6).to(dtype)
    nearest_etf(means, prox)
    with pytest.raises(ValueError, match=r"prox must have orthonormal columns, but ‖UᵀU − I‖ is 2.4e\+04"):
        nearest_etf(means, prox * 100)
    with pytest.raises(ValueError, match=r"prox must have orthonormal columns, but ‖UᵀU − I‖ is 1"):
        nearest_etf(means, (prox.double() - prox.double().mean(-1, keepdim=True)).to(dtype))


def test_prox_broadcasts_over_several_batch_dimensions():
    means = unit_means(7, 5, batch=(2, 3))
    prox = torch.stack([haar(7, 5, s) for s in range(3)])  # one for each of the second dimension
    found = nearest_etf(means, prox, 1e-2)
    for i in range(2):
        for j in range(3):
            alone = nearest_etf(means[i, j], prox[j], 1e-2)
            torch.testing.assert_close(found[i, j], alone, rtol=0, atol=1e-11)
    torch.testing.assert_close(
        nearest_etf(means, prox[:1].unsqueeze(0), 1e-2)[1, 2],
        nearest_etf(means[1, 2], prox[0], 1e-2),
        rtol=0,
        atol=1e-11,
    )


@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.float16, 5e-3), (torch.bfloat16, 4e-2)])
@pytest.mark.parametrize("C", [4, 10, 40, 63, 100])
def test_the_start_frame_of_an_etf_has_it_in_any_precision(C, dtype, error):
    """Where the means are an ETF already, the nearest one is that one, up to the rounding of its entries."""
    frame = etf.haar_frame(128, C, torch.Generator().manual_seed(C), torch.float64)
    wanted = etf.of_frame(frame)
    found = etf.of_frame(start_frame(wanted.to(dtype)).double())
    assert ((found - wanted).norm() / wanted.norm()).item() < error


def test_a_graph_used_twice_is_refused():
    means = unit_means(6, 4).requires_grad_()
    loss = nearest_etf(means, haar(6, 4)).square().sum()
    loss.backward()
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


# Batches, dtypes, memory layout


def test_batch_is_a_loop():
    means = unit_means(7, 5, batch=(2, 3)).requires_grad_()
    prox = torch.stack([haar(7, 5, s) for s in range(6)]).reshape(2, 3, 7, 5)
    batch = nearest_etf(means, prox, 1e-2)
    loop = torch.stack([nearest_etf(m, q, 1e-2) for m, q in zip(means.flatten(0, 1), prox.flatten(0, 1))]).reshape(
        batch.shape
    )
    torch.testing.assert_close(batch, loop, rtol=0, atol=1e-12)
    y = torch.randn(batch.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(*(torch.autograd.grad(out, means, y)[0] for out in (batch, loop)), rtol=1e-9, atol=1e-11)


def test_a_singular_problem_in_a_batch_leaves_the_others_alone():
    means, prox = unit_means(7, 5, batch=(2,)), haar(7, 5)
    alone = nearest_etf(means[0], prox, 1e-3)
    means[1] = 0
    torch.testing.assert_close(nearest_etf(means, prox, 1e-3)[0], alone, rtol=0, atol=1e-11)


@pytest.mark.parametrize("C, d", [(10, 512), (100, 1024), (1000, 1024)])
def test_float32(C, d):
    means, prox = unit_means(d, C), haar(d, C)
    single = nearest_etf(means.float(), prox.float(), 1e-3)
    assert single.dtype == torch.float32
    assert orthonormality_error(single) <= 1e-5 * math.sqrt(C)
    assert torch.linalg.matrix_norm(single.double() - nearest_etf(means, prox, 1e-3)) < 1e-4


def test_float32_gradient():
    means, prox = unit_means(64, 10), haar(64, 10)
    y = torch.randn(64, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grads = []
    for dtype in (torch.float32, torch.float64):
        x = means.to(dtype).requires_grad_()
        grads += torch.autograd.grad(nearest_etf(x, prox.to(dtype)), x, y.to(dtype))
    assert grads[0].dtype == torch.float32
    assert relative(grads[0].double(), grads[1]) < 1e-4


def test_memory_layout_does_not_matter():
    means, prox = unit_means(7, 5), haar(7, 5)
    strided = torch.zeros(10, 14, dtype=torch.float64)[::2, ::2].mT.copy_(means)
    assert not strided.is_contiguous()
    torch.testing.assert_close(
        nearest_etf(strided, prox.mT.contiguous().mT), nearest_etf(means, prox), rtol=0, atol=1e-12
    )


def test_inputs_are_left_as_they_are():
    means, prox = unit_means(7, 5), haar(7, 5)
    before = means.clone(), prox.clone()
    nearest_etf(means, prox)
    assert torch.equal(means, before[0]) and torch.equal(prox, before[1])


# Limits and degenerate means


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_means_give_prox(value, dtype):
    prox = haar(7, 5, dtype=dtype)
    means = torch.full((7, 5), value, dtype=dtype, requires_grad=True)
    u = nearest_etf(means, prox)
    torch.testing.assert_close(u, prox, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    u.sum().backward()
    assert means.grad.isfinite().all()


@pytest.mark.parametrize("rank", [0, 1, 3])
def test_rank_deficient_means(rank):
    factors = torch.randn(9, rank, dtype=torch.float64), torch.randn(rank, 6, dtype=torch.float64)
    means = (factors[0] @ factors[1]).requires_grad_()
    u = nearest_etf(means, haar(9, 6), 1e-3)
    assert orthonormality_error(u.detach()) < 1e-9
    u.square().mul(torch.arange(6)).sum().backward()
    assert means.grad.isfinite().all()


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_means_of_any_size(scale):
    means = unit_means(9, 6) * scale
    u = nearest_etf(means, haar(9, 6), 1e-3)
    b = 2 / math.sqrt(5) * means + 1e-3 * haar(9, 6)
    assert orthonormality_error(u) < 1e-9
    assert (u * b).sum().item() == pytest.approx(
        torch.linalg.svdvals(b).sum().item(), rel=1e-12
    )  # the maximum of ⟨U, B⟩


def test_a_large_delta_gives_prox():
    means, prox = unit_means(9, 6), haar(9, 6)
    assert torch.linalg.matrix_norm(nearest_etf(means, prox, 1e6) - prox) < 1e-5


def test_start_frame_solves_the_problem_without_proximal_term():
    means, start = unit_means(9, 6), haar(9, 6)
    u = start_frame(means, start)
    assert orthonormality_error(u) < 1e-12
    # Eq. 6 is maximising ⟨U, H̃P⟩, and its largest value is the sum of singular values.
    assert (u * means).sum().item() == pytest.approx(torch.linalg.svdvals(means).sum().item(), abs=1e-12)


def test_start_frame_is_the_nearest_to_start():
    # U·1/√C is the one free direction: it must be as near as can be to start·1/√C.
    means, start = unit_means(9, 6), haar(9, 6)
    u = start_frame(means, start)
    etf_part = u @ etf.simplex_basis(6, torch.float64)
    wanted = start.sum(-1) / math.sqrt(6)
    wanted = wanted - etf_part @ (etf_part.mT @ wanted)
    torch.testing.assert_close(u.sum(-1) / math.sqrt(6), wanted / wanted.norm(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("delta", [1e-4, 1e-6])
def test_start_frame_is_the_limit_of_small_delta(delta):
    means, start = unit_means(9, 6), haar(9, 6)
    assert torch.linalg.matrix_norm(nearest_etf(means, start, delta) - start_frame(means, start)) < 100 * delta


@pytest.mark.parametrize("rank", [1, 3])
def test_start_frame_of_rank_deficient_means(rank):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(9, rank, generator=generator, dtype=torch.float64) @ torch.randn(
        rank, 6, generator=generator, dtype=torch.float64
    )
    means = means - means.mean(-1, keepdim=True)
    u = start_frame(means, haar(9, 6))
    assert orthonormality_error(u) < 1e-12
    assert (u * means).sum().item() == pytest.approx(torch.linalg.svdvals(means).sum().item(), rel=1e-8)


@pytest.mark.parametrize("d, C, unseen", [(9, 6, 2), (6, 6, 3), (9, 6, 5), (80, 70, 4), (9, 6, 0), (80, 70, 0)])
def test_start_frame_is_the_limit_of_small_delta_where_some_classes_are_unseen(d, C, unseen):
    means, start = unit_means(d, C), haar(d, C)
    means[:, :unseen] = means[:, unseen:].mean(-1, keepdim=True)
    u = start_frame(means, start)
    assert orthonormality_error(u) < 1e-12
    away = [torch.linalg.matrix_norm(nearest_etf(means, start, delta) - u).item() for delta in (1e-5, 1e-6)]
    assert away[0] < 0.02 and away[1] < max(0.11 * away[0], 1e-9)  # it goes to zero with δ


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1])
def test_start_frame_of_equal_means_is_start(value):
    # 0.1 is not a binary fraction: centring leaves rounding noise, which is no direction.
    start = haar(9, 6)
    torch.testing.assert_close(
        start_frame(torch.full((9, 6), value, dtype=torch.float64), start), start, rtol=0, atol=1e-6
    )


@pytest.mark.parametrize("power, dtype", [(-19, torch.float32), (30, torch.float32), (-30, torch.float32)])
@pytest.mark.parametrize("d, C", [(9, 6), (128, 100)])
@pytest.mark.parametrize("delta", [0, 1e-3])
def test_the_scale_of_the_means_is_no_matter_in_float32(power, dtype, d, C, delta):
    means = unit_means(d, C).float()
    scale = 2.0 ** round(power * math.log2(10))  # exact in binary
    weigh = {} if delta == 0 else {"prox": haar(d, C)}
    found = nearest_etf(means * scale, **weigh, delta=delta * scale or 0)
    torch.testing.assert_close(found, nearest_etf(means.double(), **weigh, delta=delta).float(), rtol=0, atol=3e-5)


@pytest.mark.parametrize("power", [-600, -200, 200, 515, 600])
@pytest.mark.parametrize("d, C, unseen", [(9, 6, 0), (5, 6, 0), (80, 70, 0), (9, 6, 2)])
def test_the_scale_of_the_means_is_no_matter_in_float64(power, d, C, unseen):
    means, scale = unit_means(d, C), 2.0**power
    means[:, :unseen] = means[:, unseen:].mean(-1, keepdim=True)
    start = haar(d, C) if d >= C else etf.frame_of(d, C).double()
    assert torch.equal(means, means * scale / scale)
    torch.testing.assert_close(start_frame(means * scale, start), start_frame(means, start), rtol=0, atol=1e-10)
    found = []
    for factor in (1.0, scale):
        x = (means * factor).requires_grad_()
        u = nearest_etf(x, start, 0.1 * factor)
        found.append((u.detach(), torch.autograd.grad(u, x, torch.ones_like(u).tril())[0] * factor))
    for ours, wanted in zip(found[1], found[0]):
        torch.testing.assert_close(ours, wanted, rtol=0, atol=1e-8)


def test_gradcheck_of_large_means():
    means = 1e3 * unit_means(6, 4, batch=(2,))
    function = lambda x: nearest_etf(x, haar(6, 4), 10.0)
    assert torch.autograd.gradcheck(function, means.requires_grad_(), eps=1e-4, atol=1e-8)
    assert torch.autograd.gradgradcheck(function, means, eps=1e-4, atol=1e-8)


def test_no_prox_is_the_start_frame():
    means = unit_means(9, 6)
    assert torch.equal(nearest_etf(means), nearest_etf(means, start_frame(means)))


# Bad input


@pytest.mark.parametrize(
    "means, arguments, error, message",
    [
        (torch.ones(4, 1), {}, ValueError, "num_classes .* got 1"),
        (torch.ones(2, 4), {}, ValueError, "dim .* at least 3 .* got 2"),
        (torch.ones(4), {}, ValueError, r"means .*\(4,\)"),
        (torch.ones(4, 3, dtype=torch.int64), {}, TypeError, "means .*int64"),
        ([[1.0, 0.0], [0.0, 1.0]], {}, TypeError, "means .*list"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), {}, ValueError, "means must be finite, but 1 of its 4"),
        (torch.tensor([[1.0, math.inf], [0.0, -math.inf]]), {}, ValueError, "means must be finite, but 2 of its 4"),
        (torch.tensor([[1.0, math.nan], [0.0, 1.0]]), {"prox": torch.eye(2)}, ValueError, "means must be finite"),
        (torch.eye(3), {"prox": torch.eye(4)}, ValueError, r"prox .*\(3, 3\).*\(4, 4\)"),
        (torch.eye(3), {"prox": torch.ones(3)}, ValueError, r"prox .*\(3,\)"),
        (torch.ones(2, 4, 3), {"prox": torch.eye(4)[:, :3].repeat(3, 1, 1)}, ValueError, r"prox .*\(3, 4, 3\)"),
        (torch.eye(3), {"prox": torch.eye(3, dtype=torch.int64)}, TypeError, "prox .*int64"),
        (torch.eye(3), {"prox": torch.full((3, 3), math.nan)}, ValueError, "prox must be finite"),
        (torch.eye(3), {"delta": False}, ValueError, "delta .* got False"),
        (torch.eye(3), {"delta": 0, "prox": torch.eye(3)}, ValueError, "prox has no part .* delta=0"),
        (torch.eye(4)[:, [0, 1, 1]], {"delta": 0}, ValueError, "delta=0 .* span C−1 = 2 dimensions"),
        (torch.ones(2, 4), {"delta": 0}, ValueError, "dim .* at least 3 .* got 2"),
        (torch.eye(3), {"delta": -1e-3}, ValueError, "delta .* got -0.001"),
        (torch.eye(3), {"delta": math.nan}, ValueError, "delta .* got nan"),
        (torch.eye(3), {"delta": "1"}, ValueError, "delta .* got '1'"),
    ],
)
def test_bad_input(means, arguments, error, message):
    with pytest.raises(error, match=message):
        nearest_etf(means, **arguments)


def test_large_finite_means_are_not_taken_for_infinite():
    # Their sum overflows float32.
    means = unit_means(6, 4, dtype=torch.float32) * 1e38 + 2e38
    assert not torch.isfinite(means.sum())
    assert orthonormality_error(nearest_etf(means, haar(6, 4, dtype=torch.float32))) < 1e-5
