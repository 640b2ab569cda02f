"""The widgets without a browser: the functions behind them, and that a value set redraws the figure."""

import itertools
import math

import ipywidgets
import numpy as np
import pytest
import torch

from labkit import etf, explore, figures, heads, influence, ufm
from labkit.live import bundle
from labkit.training import History

pytestmark = pytest.mark.usefixtures("page")
SMALL = ufm.UFM(3, 30, 8)
EXPLORERS = {
    "etf": explore.ETFExplorer,
    "nearest": explore.NearestETFExplorer,
    "collapse": lambda: explore.CollapseExplorer(ufm.UFM(4, 20, 4), iterations=10),
    "ufm": lambda: explore.UFMExplorer(SMALL, iterations=20),
    "influence": explore.InfluenceExplorer,
}
everywhere = pytest.mark.parametrize("make", EXPLORERS.values(), ids=EXPLORERS)


def positions(widget):
    """Both ends and the middle of a control's range, or all options of a menu."""
    if isinstance(widget, ipywidgets.Dropdown):
        return [option[1] if isinstance(option, tuple) else option for option in widget.options]
    middle = (widget.min + widget.max) / 2
    if isinstance(widget, ipywidgets.FloatLogSlider):
        return [widget.base**x for x in (widget.min, middle, widget.max)]
    return [widget.min, type(widget.min)(middle), widget.max]


def other_value(widget):
    return next(v for v in positions(widget) if v != widget.value)


# Every explorer

@everywhere
def test_the_figure_is_a_pure_function_of_the_state(make):
    explorer = make()
    state = explorer.state
    first, second = explorer.figure(**state), explorer.figure(**state)
    assert first.to_json() == second.to_json()
    assert explorer.state == state


@everywhere
def test_every_control_over_its_range(make):
    explorer = make()
    for name, widget in explorer.widgets.items():
        for value in positions(widget):
            assert explorer.figure(**{**explorer.state, name: value}).data


@pytest.mark.parametrize("name", ["etf", "nearest"])
def test_all_corners_of_the_controls(name):
    explorer = EXPLORERS[name]()
    ends = [(p[0], p[-1]) for p in map(positions, explorer.widgets.values())]
    for values in itertools.product(*ends):
        figure = explorer.figure(**dict(zip(explorer.widgets, values)))
        for trace in figure.data:
            if trace.type == "scatter3d" and trace.x[0] is not None:
                assert np.isfinite(np.array([trace.x, trace.y, trace.z], float)).all()


@everywhere
def test_setting_a_widget_redraws(make, page):
    explorer = make()
    explorer.redraw()
    for name, widget in explorer.widgets.items():
        page.clear()
        widget.value = other_value(widget)
        expected = bundle(explorer.figure(**explorer.state))
        assert page == [expected], name


@everywhere
def test_set_draws_once(make, page):
    explorer = make()
    values = {name: other_value(widget) for name, widget in explorer.widgets.items()}
    explorer.set(**values)
    assert len(page) == 1
    assert explorer.state == pytest.approx(values)


@everywhere
def test_reset(make, page):
    explorer = make()
    first = explorer.state
    explorer.set(**{name: other_value(widget) for name, widget in explorer.widgets.items()})
    page.clear()
    explorer.box.children[-1].click()
    assert explorer.state == first and len(page) == 1


@everywhere
def test_unknown_control(make, page):
    explorer = make()
    state = explorer.state
    with pytest.raises(ValueError, match=f"no control named size; there are {', '.join(explorer.widgets)}"):
        explorer.set(size=3)
    assert explorer.state == state and page == []


@everywhere
def test_show(make, page):
    explorer = make()
    explorer._ipython_display_()
    assert page[0] is explorer.box and "application/vnd.plotly.v1+json" in page[1] and len(page) == 2


def test_a_value_that_cannot_be_set_leaves_the_explorer_alive(page):
    explorer = explore.UFMExplorer(SMALL, iterations=1)
    with pytest.raises(Exception, match="nonsense|[Ii]nvalid"):
        explorer.set(head="nonsense")
    page.clear()
    explorer.widgets["seed"].value = 3
    assert len(page) == 1


def test_an_error_in_a_figure_is_seen(monkeypatch):
    # What `interact` and `Output` would swallow, and a notebook test would then pass
    explorer = explore.ETFExplorer()
    monkeypatch.setattr(explorer, "figure", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        explorer.widgets["noise"].value = 0.5


def test_shown_twice_is_two_figures(page):
    explorer = explore.ETFExplorer()
    explorer._ipython_display_(), explorer._ipython_display_()
    page.clear()
    explorer.set(noise=0.5)
    assert len(page) == 1


# What they show

@pytest.mark.parametrize("C", [2, 3, 4])
@pytest.mark.parametrize("angle", [0, 35, 360])
def test_vectors_without_noise_are_an_etf(C, angle):
    vectors = explore.ETFExplorer.vectors(C, angle, 0.0)
    assert vectors.shape == (3, C)
    gram = torch.eye(C, dtype=torch.float64) * C / (C - 1) - 1 / (C - 1)
    torch.testing.assert_close(vectors.mT @ vectors, gram, rtol=0, atol=1e-13)


def test_turning_turns():
    quarter, start = explore.ETFExplorer.vectors(3, 90, 0.0), explore.ETFExplorer.vectors(3, 0, 0.0)
    torch.testing.assert_close(quarter, torch.stack([-start[1], start[0], start[2]]), rtol=0, atol=1e-13)


def test_noise_breaks_the_etf():
    vectors = torch.nn.functional.normalize(explore.ETFExplorer.vectors(4, 0, 0.5), dim=0)
    assert ((vectors.mT @ vectors) + 1 / 3).fill_diagonal_(0).abs().max() > 0.05


@pytest.mark.parametrize("C", [2, 4, 10])
@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_a_large_delta_gives_the_prox_etf(C, noise):
    *_, to_prox = explore.NearestETFExplorer.solve(1e3, C, noise, 0)
    assert to_prox < 1e-2


@pytest.mark.parametrize("C", [2, 3, 4, 10])
@pytest.mark.parametrize("noise", [0.0, 0.5, 3.0])
def test_a_small_delta_gives_the_etf_nearest_to_the_means(C, noise):
    # The nearest of all simplex ETFs, from an SVD of the means: √(C/(C−1)) times their polar factor.
    means, prox, near, to_means, to_prox = explore.NearestETFExplorer.solve(1e-6, C, noise, 1)
    left, singular, right = np.linalg.svd(means.numpy())
    rank = C - 1
    nearest = math.sqrt(C / (C - 1)) * left[:, :rank] @ right[:rank]
    assert singular[rank:].max(initial=0) < 1e-12
    np.testing.assert_allclose(near, nearest, atol=1e-3)
    assert to_means == pytest.approx(np.linalg.norm(nearest - means.numpy()), abs=1e-3)
    assert to_prox == pytest.approx((near - prox).norm().item())


def test_means_without_noise_are_an_etf_already():
    *_, to_means, _ = explore.NearestETFExplorer.solve(1e-6, 4, 0.0, 0)
    assert to_means < 1e-3


@pytest.mark.parametrize("head", ["standard", "fixed", "implicit"])
def test_ufm_explorer_trains_what_its_controls_say(head):
    run = explore.UFMExplorer(SMALL, iterations=20).history(head, 3.0, 0.1, 7)
    assert run.settings["head"] == head and run.settings["seeds"] == [7] and run.settings["temperature"] == 3.0
    assert run.frame["iteration"].max() == 20
    assert run.frame["loss"].iloc[-1] < run.frame["loss"].iloc[0]


def test_ufm_explorer_draws_the_bound_of_its_temperature():
    figure = explore.UFMExplorer(SMALL, iterations=2).figure("fixed", 3.0, 1e-3, 0)
    assert figure.layout.shapes[0].y0 == pytest.approx(etf.cross_entropy_bound(3, 3.0))


def test_influence_explorer_measures_what_its_controls_say():
    explorer = explore.InfluenceExplorer()
    explorer.set(num_samples=60, dim=16, num_classes=10, imbalance=10.0, clusters=1.0, seed=3)
    state = explorer.state
    spec = ufm.UFM(10, 60, 16, 10.0)
    assert explorer.spec(*(state[name] for name in ("imbalance", "num_samples", "dim", "num_classes"))) == spec
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(10, 16, generator=generator)
    features = torch.randn(60, 16, generator=generator) + centres[spec.targets()]
    found = influence.influence(heads.ImplicitETFHead(16, 10), features, spec.targets())
    figure = explorer.figure(**state)
    for trace, expected in zip(figure.data, (found.ratio, found.tangent_share)):
        assert dict(zip(trace.x, trace.y))[10.0] == pytest.approx(expected.item())
    assert f"{found.ratio.item():.2f}" in figure.layout.title.text and "classes of 15 to 2" in figure.layout.title.text


def test_influence_explorer_lowers_an_impossible_imbalance():
    spec = explore.InfluenceExplorer.spec(100.0, 31.6, 8.0, 10)
    assert (spec.num_samples, spec.dim) == (32, 10) and spec.class_sizes()[-1] == 1
    with pytest.raises(ValueError):
        ufm.UFM(10, 32, 10, spec.imbalance / 0.96)


def test_watch_ufm(page):
    run = explore.watch_ufm(SMALL, iterations=8, every=0)
    assert isinstance(run, History)
    assert set(run.frame["head"]) == {"standard", "fixed", "implicit"} and run.frame["iteration"].max() == 8
    assert len(page) == len(ufm.log_points(8))


def test_watch_ufm_draws_the_end_however_rarely(page):
    run = explore.watch_ufm(SMALL, heads=("fixed",), iterations=8, every=math.inf)
    assert run.frame["iteration"].max() == 8
    assert page[-1] == bundle(figures.ufm_panels(run, 3))


def test_watched_runs_are_those_of_train_ufm():
    watched = explore.watch_ufm(SMALL, heads=("implicit",), iterations=8, seed=2)
    trained = ufm.train_ufm(SMALL, "implicit", 8, [2])
    np.testing.assert_allclose(watched.frame["loss"], trained.frame["loss"], rtol=1e-4)
