"""The explorers of ETFs and of the nearest ETF, without a browser: every slider over its range, and the mathematics
they show.
"""

import math

import numpy as np
import pytest
import torch
from sweeps import check_numbers, corners, positions, sweeps

from labkit import etf, heads, ufm, widgets
from labkit.studies.ufms import ddn

pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.filterwarnings("error")]
CLASSES = range(2, 11)


def simplex(C):
    """The Gram matrix of a simplex ETF."""
    return torch.eye(C, dtype=torch.float64) * C / (C - 1) - 1 / (C - 1)


def vectors_of(figure, name):
    """(3, C): the ends of the arrows of one group."""
    (trace,) = (t for t in figure.data if t.type == "scatter3d" and t.name == name and t.x[0] is not None)
    return np.stack([np.asarray(trace[axis], float).reshape(-1, 3)[:, 1] for axis in "xyz"])


# The ETF


def test_etf_every_slider_over_its_range():
    explorer = widgets.etf.ETFExplorer()
    for state in sweeps(explorer):
        check_numbers(explorer.figure(**state))


def test_etf_all_corners():
    explorer = widgets.etf.ETFExplorer()
    for state in corners(explorer):
        figure = explorer.figure(**state)
        check_numbers(figure)
        gram = np.asarray(figure.data[-1].z, float)
        assert gram.shape == (state["num_classes"],) * 2
        np.testing.assert_allclose(np.diag(gram), 1, rtol=1e-6)
        assert (np.linalg.eigvalsh(gram) > -1e-6).all()


@pytest.mark.parametrize("C", CLASSES)
@pytest.mark.parametrize("angle", [0, 35, 360])
def test_etf_without_noise_is_an_etf(C, angle):
    vectors = widgets.etf.ETFExplorer.vectors(C, angle, 0.0)
    assert vectors.shape == (max(3, C - 1), C)
    torch.testing.assert_close(vectors.mT @ vectors, simplex(C), rtol=0, atol=1e-13)
    figure = widgets.etf.ETFExplorer().figure(C, angle, 0.0)
    np.testing.assert_allclose(figure.data[-1].z, simplex(C), atol=1e-6)
    np.testing.assert_allclose(vectors_of(figure, "class vectors"), vectors[:3], atol=1e-6)


@pytest.mark.parametrize("C", CLASSES)
def test_etf_all_classes_can_be_seen(C):
    ends = vectors_of(widgets.etf.ETFExplorer().figure(C, 0, 0.0), "class vectors")
    assert (np.linalg.norm(ends, axis=0) > 0.4).all()
    assert (np.linalg.norm(ends[:, :, None] - ends[:, None], axis=0) + np.eye(C) > 0.25).all()


def test_etf_turning_turns():
    quarter, start = widgets.etf.ETFExplorer.vectors(3, 90, 0.0), widgets.etf.ETFExplorer.vectors(3, 0, 0.0)
    torch.testing.assert_close(quarter, torch.stack([-start[1], start[0], start[2]]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("C", [3, 4, 10])
def test_etf_noise_raises_the_largest_cosine(C):
    vectors = torch.nn.functional.normalize(widgets.etf.ETFExplorer.vectors(C, 0, 0.5), dim=0)
    cosines = (vectors.mT @ vectors)[*torch.triu_indices(C, C, 1)]
    assert cosines.max() > -1 / (C - 1) + 0.05
    title = widgets.etf.ETFExplorer().figure(C, 0, 0.5).layout.title.text
    assert f"to {cosines.max():.3f}<".replace("-", "−") in title and f"= −{1 / (C - 1):.3f}" in title


# The nearest ETF


def solved(**settings):
    explorer = widgets.etf.NearestETFExplorer()
    return explorer.solve(**{**explorer.state, "far": 0.0, **settings})


def check_solution(found, C):
    for name in ("near", "prox"):  # whatever the means, both are ETFs
        torch.testing.assert_close(found[name].mT @ found[name], simplex(C), rtol=0, atol=1e-9)
    assert found["means"].norm().item() == pytest.approx(math.sqrt(C)) or not found["means"].any()
    assert found["means"].mean(-1).abs().max() < 1e-12
    assert (found["margins"] >= -2).all() and (found["margins"].sum() / C <= etf.cosine_margin_bound(C) + 1e-9)
    # the solution is no worse than staying at U_prox
    assert found["fit"] + found["proximal"] <= found["at_prox"] + 1e-9
    assert min(found["fit"], found["proximal"]) > -1e-12


def test_nearest_every_slider_over_its_range():
    explorer = widgets.etf.NearestETFExplorer()
    for state in sweeps(explorer):
        check_solution(explorer.solve(**state), state["num_classes"])
    for state in sweeps(explorer, 9):
        check_numbers(explorer.figure(**state))


def test_nearest_all_corners():
    explorer = widgets.etf.NearestETFExplorer()
    for k, state in enumerate(corners(explorer)):
        check_solution(explorer.solve(**state), state["num_classes"])
        if k % 3 == 0:  # of the 256, each end of a slider with each of any other
            check_numbers(explorer.figure(**state))


@pytest.mark.parametrize("C", [2, 4, 10])
@pytest.mark.parametrize("far", [0.0, 1.0, 3.0])
def test_nearest_with_a_large_delta_is_the_prox_etf(C, far):
    assert solved(delta=1e3, num_classes=C, far=far)["to_prox"] < 1e-2


@pytest.mark.parametrize("C", [2, 3, 4, 10])
@pytest.mark.parametrize("noise, far", [(0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (3.0, 3.0)])
def test_nearest_with_a_small_delta_is_the_etf_nearest_to_the_means(C, noise, far):
    # The nearest of all simplex ETFs, from an SVD of the means: √(C/(C−1)) times their polar factor.
    found = solved(delta=1e-6, num_classes=C, noise=noise, far=far, start=1)
    means = found["means"].numpy()
    left, singular, right = np.linalg.svd(means)
    rank = C - 1
    nearest = math.sqrt(C / (C - 1)) * left[:, :rank] @ right[:rank]
    assert singular[rank:].max(initial=0) < 1e-12
    np.testing.assert_allclose(found["near"], nearest, atol=1e-3)
    assert found["to_means"] == pytest.approx(np.linalg.norm(nearest - means), abs=1e-3)
    assert found["to_prox"] == pytest.approx((found["near"] - found["prox"]).norm().item())


@pytest.mark.parametrize("delta", [1e-6, 0.1, 10.0])
def test_nearest_has_the_smallest_objective(delta):
    # ‖H̃ − U M̃‖² + (δ/2)‖U − U_prox‖² with M̃ = P/√(C−1), written out anew, at random frames and at U_prox
    explorer, C = widgets.etf.NearestETFExplorer(), 5
    found = explorer.solve(**{**explorer.state, "delta": delta, "num_classes": C, "start": 3})
    H, P = found["means"] / math.sqrt(C), torch.eye(C, dtype=torch.float64) - 1 / C
    prox = etf.haar_frame(C, C, torch.Generator().manual_seed(1003), dtype=torch.float64)
    torch.testing.assert_close(etf.simplex_etf(C, frame=prox), found["prox"])

    def objective(U):
        return ((H - U @ P / math.sqrt(C - 1)).square().sum() + delta / 2 * (U - prox).square().sum()).item()

    generator, best = torch.Generator().manual_seed(0), found["fit"] + found["proximal"]
    assert objective(prox) == pytest.approx(found["at_prox"])
    for _ in range(20):
        frame = etf.haar_frame(C, C, generator, dtype=torch.float64)
        near, _ = torch.linalg.qr(prox + 0.1 * frame)
        assert min(objective(frame), objective(near)) > best


def test_nearest_means_without_noise_are_an_etf_already():
    found = solved(delta=1e-6, noise=0.0)
    assert found["to_means"] < 1e-3
    assert found["margins"].numpy() == pytest.approx(np.full(4, 4 / 3), abs=1e-3)


@pytest.mark.parametrize("direction, around", [(0, 0), (60, 40), (90, 270), (180, 0)])
@pytest.mark.parametrize("C, moved", [(3, 1), (4, 2), (10, 7)])
def test_dragging_moves_one_mean_that_far_that_way(C, moved, direction, around):
    clean = etf.ring(C)
    clean = torch.cat([clean, torch.zeros(max(3, C) - len(clean), C, dtype=torch.float64)])
    means = widgets.etf.NearestETFExplorer.means(C, 0.0, moved, 0.7, direction, around)
    # The figure's means are centred and scaled; how much, the differences between the others tell.
    other = [c for c in range(C) if c != moved]
    scale = (means[:, other[0]] - means[:, other[1]]).norm() / (clean[:, other[0]] - clean[:, other[1]]).norm()
    pulled = (means[:, moved] - means[:, other].mean(-1)) / scale - (clean[:, moved] - clean[:, other].mean(-1))
    assert pulled.norm().item() == pytest.approx(0.7)
    assert (pulled[3:].abs() < 1e-12).all()
    own = clean[:3, moved]
    assert (pulled[:3] @ own / (0.7 * own.norm())).item() == pytest.approx(math.cos(math.radians(direction)), abs=1e-12)


def test_around_turns_the_direction_about_the_class_vector():
    vector = torch.tensor([0.0, 0.0, 2.0], dtype=torch.float64)
    ends = [widgets.etf._direction(vector, math.pi / 2, around) for around in (0, math.pi / 2, math.pi)]
    assert abs(ends[0] @ ends[1]) < 1e-12 and (ends[0] @ ends[2]).item() == pytest.approx(-1)
    assert all(end.norm().item() == pytest.approx(1) and abs(end[2]) < 1e-12 for end in ends)


def test_dragging_a_class_there_is_not_drags_the_last():
    last, beyond = (widgets.etf.NearestETFExplorer.means(4, 0.0, moved, 1.0, 60, 0) for moved in (3, 9))
    assert torch.equal(last, beyond)


@pytest.mark.parametrize("C, far", [(2, 2.0), (5, 1.25)])
def test_a_mean_dragged_to_the_global_mean(C, far):
    # Through the centre by C/(C−1): the mean is then the global mean, and of two classes both are.
    explorer = widgets.etf.NearestETFExplorer()
    state = {**explorer.state, "num_classes": C, "moved": 0, "far": far, "direction": 180}
    found = explorer.solve(**state)
    check_numbers(explorer.figure(**state))
    assert found["means"][:, 0].norm() < 1e-12 and found["margins"][0] == 0
    if C == 2:
        assert not found["means"].any() and (found["margins"] == 0).all()
        torch.testing.assert_close(found["near"], found["prox"])


def test_more_delta_is_nearer_to_the_prox_etf():
    deltas = positions(widgets.etf.NearestETFExplorer().widgets["delta"], 10)
    distances = [solved(delta=delta, noise=0.5)["to_prox"] for delta in deltas]
    assert distances == sorted(distances, reverse=True)


def test_the_nearest_figure_shows_what_was_solved():
    explorer = widgets.etf.NearestETFExplorer()
    state = {**explorer.state, "num_classes": 4, "delta": 0.1}
    found, figure = explorer.solve(**state), explorer.figure(**state)
    for name, key in (("class means", "means"), ("prox ETF", "prox"), ("solution", "near")):
        np.testing.assert_allclose(vectors_of(figure, name), found[key][:3], atol=1e-6)
    np.testing.assert_allclose(figure.data[-1].y, found["margins"], atol=1e-6)
    assert figure.layout.shapes[0].y0 == pytest.approx(4 / 3)
    assert f"objective {found['fit'] + found['proximal']:.4g}" in figure.layout.title.text


# The gradient through the ETF


def test_influence_explorer_measures_what_its_controls_say():
    explorer = widgets.ddn.InfluenceExplorer()
    explorer.set(num_samples=60, dim=16, num_classes=10, imbalance=10.0, clusters=1.0, seed=3)
    state = explorer.state
    spec = ufm.UFM(10, 60, 16, 10.0)
    assert explorer.spec(*(state[name] for name in ("imbalance", "num_samples", "dim", "num_classes"))) == spec
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(10, 16, generator=generator)
    features = torch.randn(60, 16, generator=generator) + centres[spec.targets()]
    found = ddn.influence(heads.ImplicitETFHead(16, 10), features, spec.targets())
    figure = explorer.figure(**state)
    for trace, expected in zip(figure.data, (found.ratio, found.tangent_share)):
        assert dict(zip(trace.x, trace.y))[10.0] == pytest.approx(expected.item())
    assert f"{found.ratio.item():.2f}" in figure.layout.title.text and "classes of 15 to 2" in figure.layout.title.text


def test_influence_explorer_at_the_ends_of_its_controls():
    explorer = widgets.ddn.InfluenceExplorer()
    for name, widget in explorer.widgets.items():
        for value in positions(widget, 2):
            check_numbers(explorer.figure(**{**explorer.state, name: value}))


def test_influence_explorer_lowers_an_impossible_imbalance():
    spec = widgets.ddn.InfluenceExplorer.spec(100.0, 31.6, 8.0, 10)
    assert (spec.num_samples, spec.dim) == (32, 10) and spec.class_sizes()[-1] == 1
    with pytest.raises(ValueError):
        ufm.UFM(10, 32, 10, spec.imbalance / 0.96)
