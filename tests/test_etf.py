"""Simplex ETFs, frames and the bounds, against closed forms and mpmath."""

import math

import mpmath
import pytest
import torch

from labkit import etf


def ideal_gram(C):
    """Pairwise cosines of a simplex ETF: 1 on the diagonal, −1/(C−1) off it."""
    return torch.eye(C, dtype=torch.float64) * C / (C - 1) - 1 / (C - 1)


def orthonormality_error(frame):
    gram = frame.mT @ frame
    return (gram - torch.eye(gram.shape[-1], dtype=gram.dtype)).abs().max().item()


@pytest.mark.parametrize(
    "C, dim", [(2, None), (2, 1), (2, 5), (3, 2), (4, 3), (10, None), (10, 9), (10, 10), (10, 64), (200, 199)]
)
def test_gram_matrix_of_an_etf(C, dim):
    vectors = etf.simplex_etf(C, dim, dtype=torch.float64)
    assert vectors.shape == (dim or C, C)
    torch.testing.assert_close(vectors.mT @ vectors, ideal_gram(C), rtol=0, atol=1e-13)


def test_vectors_of_an_etf_sum_to_zero():
    assert etf.simplex_etf(7, 12, dtype=torch.float64).sum(-1).abs().max() < 1e-14


def test_frame_turns_the_etf():
    frame = etf.haar_frame(8, 5, torch.Generator().manual_seed(0), dtype=torch.float64)
    centring = torch.eye(5, dtype=torch.float64) - 1 / 5
    torch.testing.assert_close(etf.simplex_etf(5, frame=frame), math.sqrt(5 / 4) * frame @ centring)


def test_batch_of_frames():
    frames = torch.stack([etf.haar_frame(6, 4, torch.Generator().manual_seed(s)) for s in range(6)]).reshape(2, 3, 6, 4)
    batch = etf.simplex_etf(4, dim=6, frame=frames)
    assert batch.shape == (2, 3, 6, 4)
    torch.testing.assert_close(batch[1, 2], etf.simplex_etf(4, frame=frames[1, 2]))


@pytest.mark.parametrize("C", [2, 3, 10, 100])
def test_basis_is_orthonormal_and_sums_to_zero(C):
    basis = etf.simplex_basis(C, torch.float64)
    assert orthonormality_error(basis) < 1e-13
    torch.testing.assert_close(basis @ basis.mT, torch.eye(C, dtype=torch.float64) - 1 / C, rtol=0, atol=1e-13)


@pytest.mark.parametrize("make", [etf.canonical_frame, etf.haar_frame])
@pytest.mark.parametrize("dim, C", [(2, 2), (5, 5), (40, 7)])
def test_frames_are_orthonormal(make, dim, C):
    frame = make(dim, C, dtype=torch.float64)
    assert frame.shape == (dim, C)
    assert orthonormality_error(frame) < 1e-13


def test_canonical_frame_is_the_first_columns_of_the_identity():
    assert torch.equal(etf.canonical_frame(5, 3), torch.eye(5)[:, :3])


def test_default_dtype_and_the_one_asked_for():
    assert etf.haar_frame(4, 3).dtype == etf.canonical_frame(4, 3).dtype == etf.simplex_etf(3).dtype == torch.float32
    assert etf.simplex_etf(3, frame=etf.haar_frame(4, 3), dtype=torch.float64).dtype == torch.float64


def test_a_seed_gives_the_same_frame_in_every_dtype():
    double, single = (
        etf.haar_frame(5, 3, torch.Generator().manual_seed(4), dtype=t) for t in (torch.float64, torch.float32)
    )
    assert torch.equal(double.float(), single)


@pytest.fixture(scope="module")
def orthogonal_matrices():
    generator = torch.Generator().manual_seed(0)
    return torch.stack([etf.haar_frame(4, 4, generator, dtype=torch.float64) for _ in range(6000)])


@pytest.mark.parametrize("i, j", [(0, 0), (1, 1), (3, 3), (0, 3)])
def test_moments_of_an_entry_of_a_haar_matrix(orthogonal_matrices, i, j):
    # A column is uniform on the sphere of R⁴: mean 0, second moment 1/4, fourth 3/(4·6). Without the sign step of
    # Mezzadri the diagonal has one sign only.
    entry = orthogonal_matrices[:, i, j]
    for power, expected in [(1, 0), (2, 1 / 4), (3, 0), (4, 1 / 8)]:
        sample = entry**power
        assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(len(sample))


def test_moments_of_the_trace_of_a_haar_matrix(orthogonal_matrices):
    # Diaconis and Shahshahani (1994): the trace of a Haar matrix of O(n) has the first moments of a standard Gaussian.
    trace = orthogonal_matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    for power, expected in [(1, 0), (2, 1), (3, 0), (4, 3)]:
        sample = trace**power
        assert abs(sample.mean() - expected) < 4 * sample.std() / math.sqrt(len(sample))


def test_haar_matrices_turn_and_mirror_equally_often(orthogonal_matrices):
    assert abs(torch.linalg.det(orthogonal_matrices).mean()) < 4 / math.sqrt(len(orthogonal_matrices))


@pytest.mark.parametrize("C, value", [(10, 0.034202), (100, 0.491156)])
def test_cross_entropy_bound_as_published(C, value):
    assert etf.cross_entropy_bound(C, 5.0) == pytest.approx(value, abs=5e-7)


@pytest.mark.parametrize("C", [2, 10, 1000])
@pytest.mark.parametrize("temperature", [0.1, 5, 30.0])
def test_cross_entropy_bound_against_mpmath(C, temperature):
    with mpmath.workdps(40):
        exact = mpmath.log(1 + (C - 1) * mpmath.exp(-mpmath.mpf(temperature) * C / (C - 1)))
    assert etf.cross_entropy_bound(C, temperature) == pytest.approx(float(exact), rel=1e-14)


@pytest.mark.parametrize("C", [2, 10, 100])
def test_an_etf_attains_both_bounds(C):
    vectors = etf.simplex_etf(C, dtype=torch.float64)
    cosines = vectors.mT @ vectors
    assert (cosines[0, 0] - cosines[0, 1]).item() == pytest.approx(etf.cosine_margin_bound(C), rel=1e-13)
    loss = torch.nn.functional.cross_entropy(5 * cosines, torch.arange(C))
    assert loss.item() == pytest.approx(etf.cross_entropy_bound(C, 5.0), rel=1e-12)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: etf.simplex_etf(1), "num_classes .* got 1"),
        (lambda: etf.simplex_etf(True), "num_classes .* got True"),
        (lambda: etf.simplex_etf(2.5), "num_classes .* got 2.5"),
        (lambda: etf.simplex_etf(5, 3), "dim .* at least 4 .*num_classes=5.* got 3"),
        (lambda: etf.simplex_etf(5, 0), "dim .* got 0"),
        (lambda: etf.simplex_etf(3, frame=torch.eye(4)), r"frame .*\(4, 4\)"),
        (lambda: etf.simplex_etf(3, 5, frame=torch.eye(4)[:, :3]), r"frame .*d = 5.*\(4, 3\)"),
        (lambda: etf.simplex_etf(3, frame=torch.ones(1, 3)), r"frame .*\(1, 3\)"),
        (lambda: etf.simplex_etf(3, frame=torch.ones(3)), r"frame .*\(3,\)"),
        (lambda: etf.canonical_frame(3, 4), "dim .* at least 4 .* got 3"),
        (lambda: etf.haar_frame(3, 4), "dim .* at least 4 .* got 3"),
        (lambda: etf.haar_frame(3, 1), "num_classes .* got 1"),
        (lambda: etf.simplex_basis(1), "num_classes .* got 1"),
        (lambda: etf.cosine_margin_bound(1), "num_classes .* got 1"),
        (lambda: etf.cross_entropy_bound(1, 5.0), "num_classes .* got 1"),
        (lambda: etf.cross_entropy_bound(10, 0.0), "temperature .* got 0.0"),
        (lambda: etf.cross_entropy_bound(10, -5), "temperature .* got -5"),
        (lambda: etf.cross_entropy_bound(10, math.nan), "temperature .* got nan"),
        (lambda: etf.cross_entropy_bound(10, math.inf), "temperature .* got inf"),
    ],
)
def test_errors_name_the_value(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_frame_of_integers_is_refused():
    with pytest.raises(TypeError, match="frame .*int64"):
        etf.simplex_etf(3, frame=torch.eye(3, dtype=torch.int64))


def test_frames_that_are_not_orthonormal_are_refused():
    # simplex_etf(4, frame=randn) gave something that is no ETF.
    frame = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match="frame must have orthonormal columns, but ‖P.UᵀU − I.P‖.* is "):
        etf.simplex_etf(4, frame=frame)
    with pytest.raises(ValueError, match="orthonormal"):
        etf.simplex_etf(4, frame=torch.stack([torch.eye(6, 4), 2 * torch.eye(6, 4)]))
    u = torch.linalg.qr(frame)[0]
    centred = u - u.mean(-1, keepdim=True)  # what nearest_etf with delta=0 gives
    torch.testing.assert_close(etf.simplex_etf(4, frame=centred), etf.simplex_etf(4, frame=u))


@pytest.mark.parametrize("kind", ["canonical", "haar"])
@pytest.mark.parametrize("d, C", [(1, 2), (4, 5), (5, 5), (9, 5)])
def test_frames_to_start_from(d, C, kind):
    frame = etf.frame_of(d, C, kind, torch.Generator().manual_seed(0)).double()
    weight = etf.simplex_etf(C, frame=frame)
    gram = torch.eye(C, dtype=torch.float64) * C / (C - 1) - 1 / (C - 1)
    torch.testing.assert_close(weight.mT @ weight, gram, rtol=0, atol=1e-6)
