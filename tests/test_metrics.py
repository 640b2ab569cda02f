"""Neural collapse measures against explicit covariances, loops over samples and the values at a collapsed ETF."""

import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit import checks, etf, metrics, streaming

D, C = 9, 4
SIZES = {"balanced": [6, 6, 6, 6], "imbalanced": [12, 2, 5, 1]}


def data(sizes, seed=0, batch=()):
    """Clustered features (…, N, d) away from the origin, and shuffled labels (N,)."""
    g = torch.Generator().manual_seed(seed)
    targets = torch.repeat_interleave(torch.arange(C), torch.tensor(SIZES[sizes]))
    targets = targets[torch.randperm(len(targets), generator=g)]
    centres = torch.randn(*batch, C, D, generator=g, dtype=torch.float64) + 0.5
    return centres[..., targets, :] + 0.4 * torch.randn(
        *batch, len(targets), D, generator=g, dtype=torch.float64
    ), targets


def weights(seed=1, batch=()):
    return torch.randn(*batch, C, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loop_means(h, targets):
    """Class means as rows (C, d) and the mean of all samples, in numpy."""
    h, y = h.numpy(), targets.numpy()
    return np.stack([h[y == c].mean(0) for c in range(C)]), h.mean(0)


def simplex(C):
    return (np.eye(C) - 1 / C) / math.sqrt(C - 1)


def collapsed(C=C, d=D, each=3, norm=5.0):
    """Features that are a turned simplex ETF times `norm`, their labels, and the ETF as weights (C, d)."""
    vectors = etf.simplex_etf(C, frame=etf.haar_frame(d, C, torch.Generator().manual_seed(2), dtype=torch.float64)).mT
    targets = torch.arange(C).repeat(each)
    return norm * vectors[targets], targets, vectors


# Against the definitions


@pytest.mark.parametrize("sizes", SIZES)
def test_class_means(sizes):
    h, y = data(sizes)
    means, global_mean = metrics.class_means(h, y, C)
    expected = loop_means(h, y)
    np.testing.assert_allclose(means, expected[0], rtol=1e-13)
    np.testing.assert_allclose(global_mean, expected[1], rtol=1e-13)


@pytest.mark.parametrize("sizes", SIZES)
def test_nc1_against_covariances(sizes):
    # Eq. 11 with both d×d matrices and numpy's pseudo-inverse
    h, y = data(sizes)
    means, global_mean = loop_means(h, y)
    residuals = h.numpy() - means[y.numpy()]
    within = sum(np.outer(r, r) for r in residuals) / len(h)
    between = sum(np.outer(m - global_mean, m - global_mean) for m in means) / C
    expected = np.trace(within @ np.linalg.pinv(between, rcond=1e-10, hermitian=True)) / C
    assert metrics.nc1(h, y).item() == pytest.approx(expected, rel=1e-10)


def test_nc2_of_vectors():
    w = weights().numpy()
    gram = np.array([[a @ b for b in w] for a in w])
    assert metrics.nc2(torch.from_numpy(w)).item() == pytest.approx(
        np.linalg.norm(gram / np.linalg.norm(gram) - simplex(C)), rel=1e-12
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_nc3(sizes):
    (h, y), w = data(sizes), weights()
    means, global_mean = loop_means(h, y)
    product = np.array([[a @ (m - global_mean) for m in means] for a in w.numpy()])
    assert metrics.nc3(w, h, y).item() == pytest.approx(
        np.linalg.norm(product / np.linalg.norm(product) - simplex(C)), rel=1e-12
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_nc4(sizes):
    (h, y), w = data(sizes), weights()
    logits = h @ w.mT + torch.linspace(-1, 1, C, dtype=torch.float64)
    means, _ = loop_means(h, y)
    nearest = [np.argmin([np.linalg.norm(x - m) for m in means]) for x in h.numpy()]
    expected = np.mean([np.argmax(row) != c for row, c in zip(logits.numpy(), nearest)])
    assert 0 < expected < 1
    assert metrics.nc4(logits, h, y).item() == pytest.approx(expected, abs=1e-15)


def test_equinorm():
    w = weights()
    norms = np.linalg.norm(w.numpy(), axis=1)
    assert metrics.equinorm(w).item() == pytest.approx(norms.std(ddof=1) / norms.mean(), rel=1e-12)


@pytest.mark.parametrize("sizes", SIZES)
def test_cosine_margins(sizes):
    (h, y), w = data(sizes), weights()
    rows, centred = w.numpy() - w.numpy().mean(0), h.numpy() - h.numpy().mean(0)
    expected = []
    for x, c in zip(centred, y.numpy()):
        cosines = [x @ r / np.linalg.norm(x) / np.linalg.norm(r) for r in rows]
        expected.append(cosines[c] - max(v for k, v in enumerate(cosines) if k != c))
    np.testing.assert_allclose(metrics.cosine_margins(w, h, y), expected, rtol=1e-11, atol=1e-13)


# At a collapsed ETF


@pytest.mark.parametrize("classes, d", [(2, 5), (4, 9), (10, 10)])
def test_a_collapsed_etf(classes, d):
    h, y, w = collapsed(classes, d)
    assert metrics.nc1(h, y) < 1e-28
    assert metrics.nc2(w) < 1e-14
    assert metrics.nc3(w, h, y) < 1e-14
    assert metrics.nc4(h @ w.mT, h, y) == 0
    assert metrics.equinorm(w) < 1e-14
    np.testing.assert_allclose(metrics.cosine_margins(w, h, y), classes / (classes - 1), rtol=1e-13)


def test_scale_and_shift_do_not_matter():
    (h, y), w = data("imbalanced"), weights()
    moved = 3 * h + 7
    for measure in (
        metrics.nc1,
        lambda h, y: metrics.nc3(w - w.mean(0), h, y),
        lambda h, y: metrics.cosine_margins(w, h, y),
    ):
        torch.testing.assert_close(measure(moved, y), measure(h, y), rtol=1e-9, atol=1e-11)


# Batches and dtypes

MEASURES = {
    "nc1": lambda w, h, y: metrics.nc1(h, y),
    "nc2": lambda w, h, y: metrics.nc2(w),
    "nc3": metrics.nc3,
    "nc4": lambda w, h, y: metrics.nc4(h @ w.mT, h, y),
    "equinorm": lambda w, h, y: metrics.equinorm(w),
    "cosine_margins": metrics.cosine_margins,
}


@pytest.mark.parametrize("batch", [(3,), (2, 3)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("name", MEASURES)
def test_batch_is_a_loop(name, shared, batch):
    (h, y), w = data("imbalanced", batch=batch), weights(batch=batch)
    if not shared:  # other labels in every run
        g = torch.Generator().manual_seed(0)
        y = torch.stack([y[torch.randperm(len(y), generator=g)] for _ in range(math.prod(batch))]).reshape(
            *batch, len(y)
        )
    result = MEASURES[name](w, h, y)
    for i in np.ndindex(*batch):
        torch.testing.assert_close(result[i], MEASURES[name](w[i], h[i], y if shared else y[i]), rtol=1e-9, atol=1e-11)


def test_weights_shared_by_all_runs():
    (h, y), w = data("balanced", batch=(3,)), weights()
    torch.testing.assert_close(metrics.cosine_margins(w, h, y)[1], metrics.cosine_margins(w, h[1], y))
    torch.testing.assert_close(metrics.nc3(w, h, y)[1], metrics.nc3(w, h[1], y))


@pytest.mark.parametrize("name", MEASURES)
def test_float32_is_measured_in_float64(name):
    (h, y), w = data("balanced"), weights()
    h, w = h.float(), w.float()
    single = MEASURES[name](w, h, y) if name != "nc4" else metrics.nc4((h @ w.mT), h, y)
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, MEASURES[name](w.double(), h.double(), y))


# Bad input


def test_missing_class_is_an_error():
    h, y = data("balanced")
    y = torch.where(y == 1, 0, y)
    for measure in (
        lambda: metrics.nc1(h, y),
        lambda: metrics.class_means(h, y, C),
        lambda: metrics.nc3(weights(), h, y),
        lambda: metrics.cosine_margins(weights(), h, y),
    ):
        with pytest.raises(ValueError, match=r"classes \[1\] of 4"):
            measure()


@pytest.mark.parametrize(
    "targets, error, message",
    [
        (torch.full((24,), 4), ValueError, "labels must lie in 0 … 3, got values from 4 to 4"),
        (torch.full((24,), -1), ValueError, "from -1 to -1"),
        (torch.zeros(23).long(), ValueError, r"\(24,\).*\(23,\)"),
        (torch.zeros(24), TypeError, "float32"),
    ],
)
def test_bad_targets(targets, error, message):
    with pytest.raises(error, match=message):
        metrics.nc3(weights(), data("balanced")[0], targets)


@pytest.mark.parametrize(
    "targets",
    [torch.zeros(0).long(), torch.zeros(24), torch.zeros(23).long(), torch.zeros(24).long()],
    ids=["empty", "float", "short", "one class"],
)
def test_bad_targets_of_nc1(targets):
    # nc1 counts the classes itself, so it sees the labels before any check
    with pytest.raises((ValueError, TypeError), match="targets|num_classes|label|class"):
        metrics.nc1(data("balanced")[0], targets)


def test_features_of_integers_are_refused():
    with pytest.raises(TypeError, match="features .*int64"):
        metrics.nc1(torch.ones(4, 2).long(), torch.arange(4))


def test_many_missing_classes_are_counted_not_listed():
    features, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"classes \[4, 5, 6, 7, 8, … \(996 in all\)\] of 1000 have none"):
        metrics.class_means(features, targets, 1000)


# The true rank of Σ_B, whatever the labels' dtype; every case failed before (rank fixed at C−1, int32 misread)

RANKS = {
    "d < C-1, small": (10, 2, 40, None),
    "wide": (10, 64, 60, None),
    "d < C-1": (100, 64, 300, None),
    "d = C-2": (100, 98, 300, None),
    "a thousand": (1000, 512, 3000, None),
    "two equal means": (10, 64, 60, "equal"),
    "a mean of zero": (10, 64, 60, "zero"),
    "both, and d < C-1": (10, 6, 60, "both"),
}


def clustered(num_classes, d, n, special, batch=()):
    """Features in classes of different sizes, two of which may have equal means, and one a mean of zero."""
    g = torch.Generator().manual_seed(num_classes + d)
    labels = torch.cat(
        [torch.arange(num_classes).repeat(2), torch.randint(num_classes, (n - 2 * num_classes,), generator=g)]
    )
    h = torch.randn(*batch, num_classes, d, generator=g, dtype=torch.float64)[..., labels, :]
    h = h + 0.3 * torch.randn(*batch, n, d, generator=g, dtype=torch.float64)
    for wanted, where in {"equal": [(1, 0)], "zero": [(2, None)], "both": [(1, 0), (2, None)]}.get(special, []):
        target = 0 if where is None else h[..., labels == where, :].mean(-2, keepdim=True)
        h[..., labels == wanted, :] += target - h[..., labels == wanted, :].mean(-2, keepdim=True)
    return h, labels


def definition(h, labels, num_classes):
    """tr(Σ_W pinv(Σ_B))/C with both d×d matrices, NumPy alone."""
    h, y = h.numpy(), labels.numpy()
    means = np.stack([h[y == c].mean(0) for c in range(num_classes)])
    inside, between = h - means[y], means - h.mean(0)
    between = between.T @ between / num_classes
    return np.trace(inside.T @ inside / len(h) @ np.linalg.pinv(between, rcond=1e-12, hermitian=True)) / num_classes


@pytest.mark.parametrize("case", RANKS)
def test_nc1_takes_the_true_rank_at_once_and_in_batches(case):
    num_classes, d, n, special = RANKS[case]
    h, y = clustered(num_classes, d, n, special)
    expected = pytest.approx(definition(h, y, num_classes), rel=1e-9)
    assert metrics.nc1(h, y).item() == expected
    measures = streaming.NeuralCollapse(num_classes)
    for part, labels in zip(h.split(37), y.split(37)):
        measures.update(part, labels)
    assert measures.compute()["nc1"].item() == expected


@pytest.mark.parametrize(
    "labels, error, message",
    [
        ([[2], [0]], ValueError, "labels must lie in 0 … 1, got values from 0 to 2"),  # was class 0 of the second run
        ([[0], [-1]], ValueError, "labels must lie in 0 … 1, got values from -1 to 0"),  # was class 1 of the first
        ([[1.7], [0.0]], TypeError, "integer class labels"),  # was class 1
    ],
)
def test_sums_and_means_of_classes_refuse_what_is_no_label(labels, error, message):
    with pytest.raises(error, match=message):
        metrics.class_sums(torch.ones(2, 1, 3), torch.tensor(labels), 2)
    with pytest.raises(error, match=message):
        metrics.of_class(torch.ones(2, 2, 3), torch.tensor(labels))
    nothing = metrics.class_sums(torch.ones(2, 0, 3), torch.zeros(2, 0, dtype=torch.long), 2)
    assert nothing[0].eq(0).all() and nothing[1].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [getattr(torch, f"{u}int{bits}") for u in ("", "u") for bits in (8, 16, 32, 64)])
@pytest.mark.parametrize("own_labels", [False, True])
def test_labels_of_any_integer_dtype_batched_and_not(dtype, own_labels):
    h, y = clustered(10, 6, 60, "both", batch=(2, 3))
    if own_labels:
        order = torch.stack([torch.randperm(60, generator=torch.Generator().manual_seed(k)) for k in range(6)]).reshape(
            2, 3, 60
        )
        h, y = h.take_along_dim(order.unsqueeze(-1), -2), y[order]
    measures = streaming.NeuralCollapse(10)
    measures.update(h[..., :25, :], y[..., :25].to(dtype)), measures.update(h[..., 25:, :], y[..., 25:].to(dtype))
    found, w = measures.compute(), torch.randn(10, 6, dtype=torch.float64)
    whole, streamed = metrics.nc1(h, y.to(dtype)), found["nc1"]
    torch.testing.assert_close(found["cdnv"], metrics.cdnv(h, y.to(dtype)), rtol=1e-9, atol=0)
    for measure in (metrics.nc3, metrics.cosine_margins):
        torch.testing.assert_close(measure(w, h, y.to(dtype)), measure(w, h, y), rtol=0, atol=0)
    for i in np.ndindex(2, 3):
        expected = definition(h[i], y[i] if own_labels else y, 10)
        assert whole[i].item() == pytest.approx(expected, rel=1e-9) == streamed[i].item()


@pytest.mark.parametrize("file", ["balanced", "imbalanced", "near-collapse", "wide-classes", "tight"])
def test_against_three_codebases(file):
    with np.load(Path(__file__).parent / "outside" / f"nc-metrics-{file}.npz") as kept:
        z = {name: torch.from_numpy(kept[name]) for name in kept.files if kept[name].dtype.kind in "fi"}
    h, y, w, rel = z["features"], z["labels"], z["W"], 1e-8 if file == "near-collapse" else 1e-11
    means, global_mean = metrics.class_means(h, y, len(w))
    for found, name in [
        (means, "rh_class_means"),
        (metrics.nc1(h, y), "rh_nc1_pinv_w"),
        (metrics.nc1(h, y), "td_nc1"),
        (metrics.cdnv(h, y), "rh_cdnv"),
        (metrics.nc2(w), "gnc_nc2"),
        (metrics.nc3(w, h, y), "gnc_nc3"),
        (metrics.equinorm(w), "gnc_equinorm_W"),
        (metrics.equinorm(means - global_mean), "gnc_equinorm_H"),
        (metrics.cosine_margins(w, h, y).sort().values, "gnc_margins_sorted"),
    ]:
        np.testing.assert_allclose(found, z[name], rtol=rel, atol=1e-13, err_msg=name)
    assert metrics.nc4(h @ w.mT + z["b"], h, y).item() == pytest.approx(z["gnc_ncc_mismatch"].item(), abs=1e-15)


def test_no_measure_takes_missing_classes_or_nan_in_silence():
    h, y = clustered(5, 3, 30, None)
    with pytest.raises(
        ValueError, match=r"classes \[5, 6\] of 7 have none"
    ):  # the last ones: unseen without num_classes
        metrics.nc1(h, y, 7)
    with pytest.raises(ValueError, match=r"classes \[4\] of 6 have none"):
        metrics.cdnv(h, torch.where(y == 4, 5, y), 6)
    measures = streaming.NeuralCollapse(6)
    measures.update(h, y)
    with pytest.raises(ValueError, match=r"classes \[5\] of 6 have none"):
        measures.compute()
    means, w = metrics.class_means(h, y, 5), torch.randn(5, 3)
    bad = h.clone()
    bad[3, 1] = float("nan")
    for measure in (
        lambda: metrics.nc1(bad, y),
        lambda: metrics.nc1(bad, y, means=means),
        lambda: metrics.cdnv(bad, y),
        lambda: metrics.nc2(bad),
        lambda: metrics.nc3(w, bad, y),
        lambda: metrics.nc4(h @ w.double().mT, bad, y),
        lambda: metrics.nc4(bad @ w.double().mT, h, y, means),
        lambda: metrics.equinorm(bad),
        lambda: metrics.cosine_margins(w, bad, y, means),
        lambda: measures.update(bad, y),
    ):
        with pytest.raises(checks.NotFinite, match="must be finite, but"):
            measure()


def test_nothing_is_known_of_the_spread_of_single_samples():
    # NC1 was 0, "perfect collapse", for any features
    h, y = torch.randn(5, 8), torch.arange(5)
    measures = streaming.NeuralCollapse(5)
    measures.update(h, y)
    with pytest.warns(UserWarning, match="5 classes of one sample each have no spread"):
        assert metrics.nc1(h, y).isnan() and metrics.cdnv(h, y).isnan() and measures.compute()["nc1"].isnan()
    same = torch.tensor([[0.1, 0.7], [0.3, 0.5]], dtype=torch.float64).repeat(3, 1)
    assert metrics.nc1(same, torch.arange(3).repeat_interleave(2)).isnan()  # all class means equal: not 0 either


def test_minimal_margin_is_that_of_the_nearest_two():
    v = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for mine, found in zip(v.numpy(), metrics.minimal_margin(v)):
        unit = mine / np.linalg.norm(mine, axis=1, keepdims=True)
        assert found == pytest.approx(min(1 - unit[i] @ unit[j] for i in range(6) for j in range(i)), abs=1e-12)
    assert metrics.minimal_margin(torch.zeros(2, 3)).isnan()


def test_bounds_of_the_minimal_margin_are_attained_by_simplex_and_orthoplex():
    for d in (2, 3, 7):
        axes = torch.cat([torch.eye(d), -torch.eye(d)])
        assert metrics.minimal_margin(axes).item() == etf.minimal_margin_bound(2 * d, d) == 1
        simplex = etf.simplex_etf(d + 1, d).mT
        assert metrics.minimal_margin(simplex).item() == pytest.approx(etf.minimal_margin_bound(d + 1, d), abs=1e-6)
        few = torch.randn(500, d + 2, d, generator=torch.Generator().manual_seed(d))
        assert metrics.minimal_margin(few).max() <= etf.minimal_margin_bound(d + 2, d)


def test_the_nearest_mean_is_found_far_from_the_origin():
    """Squared lengths of 1e10 and more, in which gaps of 1e-4 are lost, cancel before they are rounded."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    offset = 1e5 * draw(8)
    means, features = 1e-4 * draw(5, 8) + offset, 2e-4 * draw(200, 8) + offset
    exact = [
        min(range(5), key=lambda c: sum((Fraction(a) - Fraction(b)) ** 2 for a, b in zip(h, means[c].tolist())))
        for h in features.tolist()
    ]
    assert metrics.nearest_mean(features, means).tolist() == exact
