"""The small experiments: their pieces do what they say, and the same seed gives the same run."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from labkit.activations import AGLU, APA, aglu, derivatives
from labkit.history import History
from labkit.studies import activation_fits, networks
from labkit.vision import data

Z = torch.linspace(-4, 4, 9, dtype=torch.float64)


@pytest.mark.parametrize("gated", [True, False])
def test_derivatives_are_one_for_each_point(gated):
    found = derivatives(Z, 0.7, 0.3, gated)
    h = 1e-6
    for part, step in (("z", (h, 0, 0)), ("kappa", (0, h, 0)), ("lam", (0, 0, h))):
        up, down = (derivatives(Z + s * step[0], 0.7 + s * step[1], 0.3 + s * step[2], gated)["value"] for s in (1, -1))
        torch.testing.assert_close(found[part], (up - down) / (2 * h), rtol=1e-6, atol=1e-8)


def test_eq_6_has_the_other_sign():
    right, wrong = (derivatives(Z, 1.0, 0.5, True, g)["lam"] for g in ("exact", "paper"))
    assert ((right * wrong < 0) | (Z == 0)).all()


def test_fit_finds_the_values_with_the_exact_gradient_only():
    end = {g: activation_fits.fit_curve(lambda_gradient=g, seeds=(1, 2), steps=800).final() for g in ("exact", "paper")}
    np.testing.assert_allclose(end["exact"][["kappa", "lam"]], [[0.8, 0.5]] * 2, atol=1e-3)
    assert (np.abs(end["paper"]["lam"] - 0.5) > 0.1).all()


def test_a_seed_of_a_fit_does_not_depend_on_the_others():
    both, alone = activation_fits.fit_curve(seeds=(0, 3), steps=10), activation_fits.fit_curve(seeds=(3,), steps=10)
    np.testing.assert_allclose(both.frame.query("seed == 3").iloc[:, 3:], alone.frame.iloc[:, 3:], rtol=1e-12)


def test_digits_are_split_as_everywhere(monkeypatch):
    """1347 and 450 they were here, and 1201 and 596 in labkit.vision.data."""
    sizes, real = [], networks.trainer_of
    watch = lambda net, images, labels, measure, **o: (
        sizes.append(len(images)) or real(net, images, labels, measure=measure, **o)
    )
    monkeypatch.setattr(networks, "trainer_of", watch)
    accuracy = activation_fits.train_digits("a", (0,), epochs=1, blocks=1, width=16).final()["test_accuracy"].item()
    assert sizes == [len(data.load("digits", "train"))] == [1201]
    assert 596 * accuracy == pytest.approx(round(596 * accuracy), abs=1e-3)


def test_the_network_has_a_pair_for_each_layer():
    net = activation_fits.DigitNet(blocks=3, width=16, kappa_init=(-2, 0), gate_kappa_init=(0, 1))
    kappas, lams = net.parameters_of(AGLU)
    assert len(kappas) == 2 * 3 + 1 + 3 and len(net.parameters_of(APA)[0]) == 3
    assert all(-2 <= k <= 0 for k in kappas) and all(0 <= l <= 1 for l in lams)
    assert net(torch.randn(5, 64)).shape == (5, 10)
    other = activation_fits.DigitNet(blocks=3, width=16, activation=nn.ReLU)
    assert other.parameters_of(AGLU) == ([], [])


def test_training_learns_and_repeats_itself():
    options = dict(seeds=(0,), epochs=2, blocks=1, width=32)
    first, second = (activation_fits.train_digits("exact", **options) for _ in range(2))
    pd.testing.assert_frame_equal(first.frame, second.frame)
    assert list(first.frame["iteration"]) == [0, 1, 2] and set(first.frame["head"]) == {"exact"}
    assert first.final()["test_accuracy"].item() > 0.8
    assert first.frame[["kappa_2", "lam_2"]].notna().all(axis=None) and "kappa_3" not in first.frame


def test_history_travels_through_a_file(tmp_path):
    run = activation_fits.train_digits("paper", seeds=(0,), epochs=1, blocks=1, width=16, lambda_gradient="paper")
    back = History.load(run.save(tmp_path / "run.parquet"))
    pd.testing.assert_frame_equal(back.frame, run.frame)
    assert back.settings["lambda_gradient"] == "paper" and back.settings["versions"]["torch"]


def test_kappa_and_lambda_can_be_held():
    frame = activation_fits.train_digits("held", seeds=(0,), epochs=1, blocks=1, width=16, learn=False).frame
    pairs = frame.filter(regex="kappa_|lam_")
    assert (pairs.iloc[0] == pairs.iloc[-1]).all()


def test_a_run_that_diverges_stops_at_chance():
    run = activation_fits.train_digits("wild", seeds=(0,), epochs=3, blocks=1, width=16, lr=1e30)
    end = run.final().iloc[0]
    assert math.isnan(end["loss"]) and end["accuracy"] == end["test_accuracy"] == 0.1


@pytest.mark.parametrize("kind", ["plain", "residual", "normalised"])
def test_signals_start_as_drawn(kind):
    table = activation_fits.signal("a", (1, 1.3), kind, depth=3, width=32, samples=32, seeds=(0, 1))
    assert list(table.columns) == ["head", "seed", "layer", "scale", "gradient"] and len(table) == 2 * 4
    assert (table.query("layer == 0")["scale"] - 1).abs().max() < 0.1
    assert (table.query("layer == 3")["gradient"] - 1).abs().max() < 0.1
    assert np.isfinite(table[["scale", "gradient"]]).all(axis=None)


def test_signal_of_one_plain_layer():
    """RMS of AGLU(z) for z ~ N(0, 2), by quadrature, with κ and λ held."""
    table = activation_fits.signal(
        "a", (1, 1), "plain", depth=1, width=400, samples=400, seeds=(0,), lambda_init=(0.5, 0.5)
    )
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    density = torch.exp(-z.square() / 4) / math.sqrt(4 * math.pi)
    expected = math.sqrt(torch.trapezoid(aglu(z, 1.0, 0.5).square() * density, z).item())
    assert table["scale"].iloc[-1] == pytest.approx(expected, rel=0.03)


def test_signal_refuses_an_unknown_kind():
    with pytest.raises(ValueError, match="kind must be one of"):
        activation_fits.signal("a", (0, 1), "round")


def test_held_trains_at_each_pair():
    found = activation_fits.held(("APA",), kappas=[1.5, 0.0], lams=[0.5], seeds=(1,), epochs=4).frame
    assert found[["head", "seed", "iteration", "kappa", "lam"]].values.tolist() == [
        ["APA", 1, t, k, 0.5] for k in (1.5, 0.0) for t in (1, 2, 3, 4)
    ]
    accuracy = found.set_index(["kappa", "iteration"])["test_accuracy"]
    assert accuracy[1.5, 4] > 0.9  # sigmoids learn
    assert (accuracy[0.0] < 0.2).all()  # a constant passes nothing on


def test_held_holds(monkeypatch):
    ends = []

    class Net(activation_fits.DigitNet):
        def __init__(self, **options):
            super().__init__(**options)
            ends.append(self)

    monkeypatch.setattr(activation_fits, "DigitNet", Net)
    activation_fits.held(("AGLU",), kappas=[-1.5], lams=[10.0], seeds=(0,), epochs=1)
    assert ends[0].parameters_of(AGLU) == ([-1.5] * 9, [10.0] * 9)


def test_the_released_floor_of_a_fit():
    """λ = relu(p) + 1e-8 with Eq. 6: where p falls below 0 λ stays at the floor; with the exact gradient nothing does."""
    run = activation_fits.fit_curve(lambda_gradient="paper", floor="released", seeds=(0, 1), steps=300, name="x")
    assert set(run.frame["head"]) == {"x"} and run.settings["floor"] == "released"
    end = run.final()
    assert (end["lam"] == 1e-8).all()
    exact = activation_fits.fit_curve(floor="released", seeds=(0, 1), steps=300).final()
    usual = activation_fits.fit_curve(seeds=(0, 1), steps=300).final()
    np.testing.assert_allclose(exact["lam"], usual["lam"], rtol=1e-4)
    with pytest.raises(ValueError, match="floor must be one of"):
        activation_fits.fit_curve(floor="soft")
