"""The explorer of networks without a browser: every control over all its values."""

import itertools

import pytest
from networks_made_up import results

from labkit.history import History
from labkit.studies import networks
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
