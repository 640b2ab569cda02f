"""What all explorers share, without a browser: setting values draws once, the last state wins, nothing is hidden.

Tests of one explorer's own figure are in the file of its module.
"""

import threading

import ipywidgets
import pytest
from networks_made_up import results
from sweeps import another

from labkit import ufm, widgets
from labkit.widgets.live import bundle

pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.filterwarnings("error")]
SMALL = ufm.UFM(3, 30, 8)
EXPLORERS = {
    "etf": widgets.etf.ETFExplorer,
    "nearest": widgets.etf.NearestETFExplorer,
    "collapse": lambda: widgets.collapse.CollapseExplorer(per_class=5, iterations=10),
    "ufm": lambda: widgets.ufm.UFMExplorer(SMALL, iterations=20),
    "influence": widgets.ddn.InfluenceExplorer,
    "apa": widgets.activations.APAExplorer,
    "networks": lambda: widgets.networks.NetworksExplorer(*results()),
}
everywhere = pytest.mark.parametrize("make", EXPLORERS.values(), ids=EXPLORERS)


@everywhere
def test_the_figure_is_a_pure_function_of_the_state(make):
    explorer = make()
    state = explorer.state
    first, second = explorer.figure(**state), explorer.figure(**state)
    assert first.to_json() == second.to_json() == make().figure(**state).to_json()
    assert explorer.state == state


@everywhere
def test_setting_a_widget_redraws(make, page):
    explorer = make()
    explorer.redraw()
    for name, widget in explorer.widgets.items():
        page.clear()
        widget.value = another(widget)
        assert page == [bundle(explorer.present())], name


@everywhere
def test_set_draws_once(make, page):
    explorer = make()
    values = {name: another(widget) for name, widget in explorer.widgets.items()}
    explorer.set(**values)
    assert len(page) == 1
    assert explorer.state == pytest.approx(values)


@everywhere
def test_reset(make, page):
    explorer = make()
    first = explorer.state
    explorer.set(**{name: another(widget) for name, widget in explorer.widgets.items()})
    page.clear()
    explorer.buttons["reset"].click()
    assert explorer.state == first and len(page) == 1


def test_unknown_control(page):
    explorer = widgets.etf.ETFExplorer()
    state = explorer.state
    with pytest.raises(ValueError, match=f"no control named size; there are {', '.join(explorer.widgets)}"):
        explorer.set(size=3)
    assert explorer.state == state and page == []


@everywhere
def test_a_number_outside_the_range_is_refused(make, page):
    explorer = make()
    state = explorer.state
    for name, widget in explorer.widgets.items():
        if hasattr(widget, "max"):
            for value in (-1e4, 1e4, float("nan")):
                with pytest.raises(ValueError, match=rf"{name} must be from .* to .*, got {value}"):
                    explorer.set(**{name: value})
    assert explorer.state == state and page == []


@everywhere
def test_show(make, page):
    explorer = make()
    explorer._ipython_display_()
    assert page[0] is explorer.box and "application/vnd.plotly.v1+json" in page[1] and len(page) == 2


@everywhere
def test_every_control_says_what_it_is(make):
    explorer = make()
    for widget in explorer.widgets.values():
        tip = getattr(widget, "tooltip", None) or getattr(widget, "description_tooltip", None)
        assert widget.description and tip


@everywhere
def test_only_core_widgets(make):
    core = (
        ipywidgets.IntSlider,
        ipywidgets.FloatSlider,
        ipywidgets.FloatLogSlider,
        ipywidgets.Dropdown,
        ipywidgets.Checkbox,
        ipywidgets.SelectionSlider,
    )
    assert {type(widget) for widget in make().widgets.values()} <= set(core)


def test_a_fraction_of_a_class_is_refused(page):
    explorer = widgets.etf.ETFExplorer()
    with pytest.raises(ValueError, match=r"num_classes must be a whole number, got 4\.5"):
        explorer.set(noise=0.5, num_classes=4.5)
    assert explorer.state["num_classes"] == 4 and explorer.state["noise"] == 0 and page == []
    explorer.set(num_classes=5.0)
    assert explorer.state["num_classes"] == 5


def test_what_an_explorer_is_made_with_is_where_its_controls_begin(page):
    """And is not moved to the end of their range without a word."""
    assert widgets.collapse.CollapseExplorer(per_class=5, iterations=10, seed=42).state["seed"] == 42
    assert widgets.ufm.UFMExplorer(SMALL, iterations=5).state["iterations"] == 5
    assert widgets.ufm.UFMExplorer(ufm.UFM(3, 6, 4), iterations=10).widgets["num_classes"].max == 6  # one sample each
    with pytest.raises(ValueError, match="iterations must be from 10 to 3000, got 5000"):
        widgets.ufm.UFMExplorer(SMALL, iterations=5000)


def test_a_value_that_cannot_be_set_leaves_all_as_it_was(page):
    explorer = widgets.ufm.UFMExplorer(SMALL, iterations=10)
    state = explorer.state
    with pytest.raises(Exception, match="nonsense|[Ii]nvalid"):
        explorer.set(seed=5, head="nonsense")
    assert explorer.state == state and page == []
    explorer.widgets["seed"].value = 3
    assert len(page) == 1


def test_an_error_in_a_figure_is_seen(monkeypatch):
    # What `interact` and `Output` would swallow, and a notebook test would then pass
    explorer = widgets.etf.ETFExplorer()
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(explorer, "figure", lambda **_: 1 / 0)
        explorer.widgets["noise"].value = 0.5
    explorer.widgets["noise"].value = 0.25  # and it draws again


def test_shown_twice_is_two_figures(page):
    explorer = widgets.etf.ETFExplorer()
    explorer._ipython_display_(), explorer._ipython_display_()
    page.clear()
    explorer.set(noise=0.5)
    assert len(page) == 1


def test_a_change_while_a_figure_is_computed_is_drawn_last(page):
    explorer = widgets.etf.ETFExplorer()
    compute, angles = explorer.figure, [90, 180]

    def figure(**state):
        drawn = compute(**state)
        if angles:  # the hand moves on while this figure is made, twice
            explorer.widgets["angle"].value = angles.pop()
        return drawn

    explorer.figure = figure
    explorer.set(angle=5)
    assert explorer.state["angle"] == 90
    assert page == [bundle(compute(num_classes=4, angle=90, noise=0.0))]


def test_changes_from_two_threads_end_on_the_last_state(page, until):
    # JupyterLab handles widgets in a thread beside that of the cells (a "subshell")
    explorer = widgets.etf.NearestETFExplorer()
    compute, slow = explorer.figure, threading.Event()
    began = threading.Event()

    def figure(**state):
        if state["start"] == 1:
            began.set()
            slow.wait(10)
        return compute(**state)

    explorer.figure = figure
    one = threading.Thread(target=lambda: explorer.set(start=1))
    one.start()
    assert began.wait(10)
    two = threading.Thread(target=lambda: explorer.set(start=2))
    two.start()
    until(lambda: explorer.state["start"] == 2, "the second change")
    slow.set()
    one.join(30), two.join(30)
    assert page[-1] == bundle(compute(**explorer.state)) and explorer.state["start"] == 2


def test_many_changes_from_two_threads(page):
    explorer = widgets.etf.ETFExplorer()

    def move(name, values):
        for value in values:
            explorer.widgets[name].value = value

    threads = [
        threading.Thread(target=move, args=args) for args in (("angle", range(0, 150, 5)), ("num_classes", [2, 3] * 15))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert page[-1] == bundle(explorer.figure(num_classes=3, angle=145, noise=0.0))
