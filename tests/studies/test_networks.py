"""The small studies: a network trains, the same way at the same seed; κ and λ move; measures are those of their
formulas.
"""

import pandas as pd
import pytest
import torch

from labkit import metrics
from labkit.activations import AGLU, APA
from labkit.studies import networks
from labkit.vision import backbones


@pytest.fixture(scope="module")
def images():
    train, labels, test, test_labels = networks.load("digits")
    return train[:120], labels[:120], test[:60], test_labels[:60]


def trained(network, images, seed=0, **options):
    options = dict(epochs=2, batch_size=30) | options
    return networks.train_classifier(networks.build(network, seed=seed), *images, seed=seed, **options)


# --- training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("network", ["relu", "apa-star"])
def test_the_loss_falls(images, network):
    curve = trained(network, images, epochs=6).curves
    assert curve["loss"].iloc[-1] < 0.9 * curve["loss"].dropna().iloc[0]
    assert curve["iteration"].tolist() == [0, 1, 2, 5, 6] and curve["steps"].tolist() == [0, 4, 8, 20, 24]
    assert curve["accuracy"].iloc[-1] > curve["accuracy"].iloc[0]


def test_a_seed_gives_the_same_run(images):
    first, second, other = (trained("apa-star", images, seed, epochs=1) for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(first.curves, second.curves)
    pd.testing.assert_frame_equal(first.parameters, second.parameters)
    assert first.curves["loss"].iloc[-1] != other.curves["loss"].iloc[-1]


def test_training_leaves_the_global_generator_alone(images):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    trained("apa-star", images, epochs=1)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("network", ["aglu", "aglu-channel", "apa-star"])
def test_kappa_and_lambda_move(images, network):
    table = trained(network, images).parameters
    start, end = (table[table["iteration"] == e].reset_index() for e in (0, 2))
    assert len(start) == (19 if network == "apa-star" else 13)
    assert (start["kappa"] != end["kappa"]).all()
    assert (start["lam"] != end["lam"]).all()


def test_frozen_kappa_and_lambda_stay(images):
    table = trained("aglu-frozen", images).parameters
    start, end = (table[table["iteration"] == e].reset_index() for e in (0, 2))
    assert (start["kappa"] == end["kappa"]).all() and (start["lam"] == end["lam"]).all()


def test_networks_without_them_have_none(images):
    assert trained("se", images, epochs=1).parameters.empty


def test_weight_decay_is_for_weights_only(images, monkeypatch):
    groups = []
    real = torch.optim.SGD
    monkeypatch.setattr(torch.optim, "SGD", lambda given, **kw: groups.extend(given) or real(given, **kw))
    model = networks.build("apa-star-channel")
    networks.train_classifier(model, *images, epochs=1, batch_size=60, weight_decay=0.3)
    decayed = {id(p) for group in groups for p in group["params"] if group["weight_decay"]}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            wanted = name == "weight" and isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
            assert (id(parameter) in decayed) == wanted, (module, name)


def test_a_loss_that_is_not_finite_ends_the_run(images):
    model = networks.build("relu")
    with torch.no_grad():
        model.fc.bias[0] = float("inf")
    curve = networks.train_classifier(model, *images, epochs=3, batch_size=60, measure_at=[3]).curves
    assert curve["iteration"].tolist() == [0, 1] and curve.iloc[1, 2:].isna().all()


@pytest.mark.parametrize("name, value", [("epochs", 0), ("batch_size", -1), ("lr", float("nan"))])
def test_settings_are_checked(images, name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number above 0, got {value}"):
        trained("relu", images, **{name: value})


def test_labels_must_fit(images):
    with pytest.raises(ValueError, match="targets must have shape"):
        networks.train_classifier(networks.build("relu"), images[0], images[1][:5], *images[2:])


# --- networks -----------------------------------------------------------------------------------------------------


def test_networks_of_a_kind_start_from_the_same_weights():
    first, second = networks.build("relu", seed=3), networks.build("aglu", seed=3)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name])


@pytest.mark.parametrize("network", networks.NETWORKS)
def test_every_network(network):
    model = networks.build(network, in_chans=3, num_classes=4)
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 4)
    learns = any(p.requires_grad for m in model.modules() if isinstance(m, (AGLU, APA)) for p in m.parameters())
    assert learns == (network in networks.LEARNT and network != "aglu-frozen")


def test_unknown_network():
    with pytest.raises(ValueError, match="network must be one of 'relu', .*; got 'tanh'"):
        networks.build("tanh")


# --- measures -----------------------------------------------------------------------------------------------------


def test_entropy():
    C = 7
    assert networks.attention_entropy(torch.full((3, C), 0.2)).tolist() == pytest.approx([1.0] * 3)
    one = torch.full((C,), 1e-30)
    one[2] = 0.5
    assert networks.attention_entropy(one).item() == pytest.approx(0, abs=1e-12)
    half = torch.tensor([1.0, 1.0, 0.0, 0.0])
    assert networks.attention_entropy(half).item() == pytest.approx(0.5)
    gates = torch.rand(5, C)
    torch.testing.assert_close(
        networks.attention_entropy(gates), networks.attention_entropy(3 * gates), rtol=1e-6, atol=0
    )


def test_last_gate_sees_the_last_block(images):
    model = networks.build("se-apa").eval()
    with networks.last_gate(model) as gates, torch.no_grad():
        model(images[0][:4])
    assert [g.shape for g in gates] == [(4, 64)]
    last = [m for m in model.modules() if isinstance(m, backbones.SEModule)][-1]
    assert gates[0].min() > 0 and gates[0].max() < 1 and not last.gate._forward_hooks
    with networks.last_gate(networks.build("relu")) as none:
        assert none == []


def test_measures_are_those_of_the_network(images):
    model = networks.build("se").eval()
    found = networks.measure(model, *images[:2], batch_size=50)
    with torch.no_grad():
        features = model.forward_head(model.forward_features(images[0]), pre_logits=True)
        correct = model(images[0]).argmax(-1) == images[1]
    assert found["accuracy"] == pytest.approx(correct.double().mean().item())
    assert found["nc1"] == pytest.approx(metrics.nc1(features, images[1]).item(), rel=1e-4)


# --- studies ------------------------------------------------------------------------------------------------------


def test_images_are_standardised():
    train, labels, test, _ = networks.load("digits")
    assert abs(train.mean()) < 1e-5 and train.std() == pytest.approx(1, abs=1e-4)
    assert abs(test.mean()) < 0.1 and len(train) == len(labels)


@pytest.fixture
def small(images, monkeypatch):
    spec = dict(
        networks.STUDIES["digits"], networks=["relu", "aglu"], seeds=[0, 1], epochs=1, batch_size=60, measure_at=[0]
    )
    monkeypatch.setitem(networks.STUDIES, "digits", spec)
    monkeypatch.setattr(networks, "load", lambda *_: images)


def test_a_study_goes_on_where_it_stopped(small, tmp_path, monkeypatch):
    told = []
    first = networks.run("digits", tmp_path, progress=told.append)
    assert len(told) == 4 and told[0].startswith("digits, relu, seed 0: test accuracy 0.")
    assert set(first["curves"].frame["head"]) == {"relu", "aglu"} and set(first["parameters"].frame["head"]) == {"aglu"}
    assert first["curves"].settings["images"] == networks.NOTES["digits"]
    (tmp_path / "digits-aglu-1-curves.parquet").unlink()
    again = networks.run("digits", tmp_path, progress=told.append)
    assert len(told) == 5 and "aglu, seed 1" in told[-1]
    for part in first:
        pd.testing.assert_frame_equal(first[part].frame, again[part].frame)


def test_a_study_is_saved_and_loaded(small, tmp_path):
    found = networks.run("digits", tmp_path / "runs", progress=lambda _: None)
    networks.save(found, "digits", tmp_path)
    for loaded, history in zip(networks.saved("digits", tmp_path), found.values()):
        assert loaded.settings == history.settings
        pd.testing.assert_frame_equal(loaded.frame, history.frame)
    with pytest.raises(FileNotFoundError, match="networks-stl10-curves.parquet"):
        networks.saved("stl10", tmp_path)


def test_a_changed_study_is_run_again(small, tmp_path, monkeypatch):
    told = []
    networks.run("digits", tmp_path, ["relu"], [0], progress=told.append)
    monkeypatch.setitem(networks.STUDIES, "digits", dict(networks.STUDIES["digits"], lr=0.01))
    networks.run("digits", tmp_path, ["relu"], [0], progress=told.append)
    assert len(told) == 2
