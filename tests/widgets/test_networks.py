"""The explorer of networks without a browser: every control over all its values, and that setting one redraws."""

import itertools

import pytest
from networks_made_up import results

from labkit.history import History
from labkit.studies import networks
from labkit.widgets.live import bundle
from labkit.widgets.networks import NetworksExplorer


@pytest.fixture
def explorer():
    return NetworksExplorer(*results())


def positions(widget):
    return [option[1] if isinstance(option, tuple) else option for option in widget.options]


def test_every_combination_of_the_controls(explorer):
    names = list(explorer.widgets)
    assert positions(explorer.widgets["network"]) == list(networks.NETWORKS)
    for values in itertools.product(*map(positions, explorer.widgets.values())):
        state = dict(zip(names, values))
        figure = explorer.figure(**state)
        assert figure.data or "no gate in this network" in [a.text for a in figure.layout.annotations], state


def test_the_figure_is_a_pure_function_of_the_state(explorer):
    state = explorer.state
    assert explorer.figure(**state).to_json() == explorer.figure(**state).to_json()
    assert explorer.state == state


def test_setting_a_widget_redraws(explorer, page):
    explorer.redraw()
    for name, widget in explorer.widgets.items():
        page.clear()
        widget.value = next(v for v in positions(widget) if v != widget.value)
        assert page == [bundle(explorer.figure(**explorer.state))], name


def test_set_draws_once_and_reset_goes_back(explorer, page):
    first = explorer.state
    explorer.set(network="se", kind="gate", seed=2, epoch=1)
    assert len(page) == 1 and explorer.state == dict(network="se", kind="gate", seed=2, epoch=1)
    explorer.reset()
    assert explorer.state == first


def test_unknown_control(explorer, page):
    with pytest.raises(ValueError, match="no control named head; there are network, kind, seed, epoch"):
        explorer.set(head="se")


def test_show(explorer, page):
    explorer._ipython_display_()
    assert page[0] is explorer.box and "application/vnd.plotly.v1+json" in page[1]


def test_the_title_has_the_numbers_of_the_run(explorer):
    row = explorer.numbers("apa-star", 1, 5)
    title = explorer.figure("apa-star", "gate", 1, 5).layout.title.text
    assert f"{100 * row['test_accuracy']:.1f} %" in title and f"gate entropy {row['gate_entropy']:.3f}" in title
    assert "entropy" not in explorer.figure("relu", "activation", 1, 5).layout.title.text


def test_it_starts_with_a_network_that_learns_and_the_last_epoch(explorer):
    assert explorer.state["network"] in networks.LEARNT and explorer.state["epoch"] == 5


def test_runs_that_are_missing_say_so():
    curves, parameters = results(["relu", "aglu"])
    explorer = NetworksExplorer(History(curves.frame.query("not (head == 'relu' and seed == 1)")), parameters)
    assert explorer.figure("relu", "activation", 1, 5).layout.title.text.endswith("not run")


def test_unknown_networks_are_refused():
    curves, parameters = results(["relu"])
    with pytest.raises(ValueError, match="none of the networks is known: .*'tanh'"):
        NetworksExplorer(History(curves.frame.assign(head="tanh")), parameters)
