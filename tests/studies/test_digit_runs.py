"""The digit network's studies: runs are kept, taken up again and put together; shares and best rates of made-up runs."""

import pandas as pd
import pytest

from labkit.activations import AGLU
from labkit.history import History
from labkit.studies import activation_fits, digit_runs


@pytest.fixture
def small(monkeypatch):
    """A study of three runs that take no time: what is trained only notes its settings."""
    runs = digit_runs._runs({"a": {}, "b": dict(activation="relu")}, 1, 0.1, [0], 1) + digit_runs._runs(
        {"a": {}}, 2, 0.02, [1], 1
    )
    monkeypatch.setitem(digit_runs.STUDIES, "eq6", runs)
    made = []

    def train(name, seeds, epochs, lr, blocks, **options):
        made.append((name, seeds, epochs, lr, blocks, options))
        frame = pd.DataFrame(dict(head=name, seed=seeds[0], iteration=[0, 1], loss=[2.0, 1.0], lam_0=0.5))
        settings = dict(device="cpu", versions={}, date="today", epochs=1, batch=128, weight_decay=0.0)
        return History(frame, settings)

    monkeypatch.setattr(activation_fits, "train_digits", train)
    return made


def test_a_study_goes_on_where_it_stopped(small, tmp_path):
    assert digit_runs.work("eq6", tmp_path, seconds=-1) == 3 and small == []
    assert digit_runs.work("eq6", tmp_path) == 0 and len(small) == 3
    assert [call[:5] for call in small] == [("a", [0], 1, 0.1, 1), ("b", [0], 1, 0.1, 1), ("a", [1], 1, 0.02, 2)]
    assert small[1][5]["activation"].__name__ == "ReLU" and small[0][5] == {}
    assert digit_runs.work("eq6", tmp_path) == 0 and len(small) == 3


def test_runs_are_put_together(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="3 runs of eq6 are missing"):
        digit_runs.collect("eq6", tmp_path)
    digit_runs.work("eq6", tmp_path)
    found = digit_runs.collect("eq6", tmp_path)
    last = found.frame[found.frame["iteration"] == 1]
    assert last[["head", "blocks", "lr", "seed"]].values.tolist() == [
        ["a", 1, 0.1, 0],
        ["b", 1, 0.1, 0],
        ["a", 2, 0.02, 1],
    ]
    assert "1201" in found.settings["data"]
    History.load(found.save(tmp_path / "whole.parquet"))


def test_every_run_of_a_study_has_a_file_of_its_own():
    for runs in digit_runs.STUDIES.values():
        assert len({digit_runs.Runs(".").name(settings) for settings in runs}) == len(runs)


def test_shares_of_layers():
    rows = [
        dict(head="x", blocks=1, lr=0.1, seed=0, iteration=t, gradient=g, test_accuracy=a, lam_0=l0, lam_1=l1, lam_2=l2)
        for t, g, a, l0, l1, l2 in ((0, float("nan"), 0.1, 0.5, 0.5, 0.5), (1, 9.0, 0.5, 1e-8, 0.5, 0.5), (2, 3.0, 0.9, 1e-8, 200.0, 1.0))
    ]  # fmt: skip
    rows += [dict(rows[-1], seed=1, lam_0=2e-6, lam_1=99.0), dict(rows[-1], head="shallow", lam_2=float("nan"))]
    found = digit_runs.lambda_shares(pd.DataFrame(rows))
    assert found["layers"].tolist() == [3, 3, 2]
    assert found["floor"].tolist() == pytest.approx([1 / 3, 0, 1 / 2]) and found["above"].tolist() == pytest.approx(
        [1 / 3, 0, 1 / 2]
    )
    assert found.loc[0, ["largest", "gradient", "test"]].tolist() == [200.0, 9.0, 90.0]


DIVERGED = 0.1  # the accuracy of chance, in the row at which such a run ends


def test_each_start_is_judged_at_its_best_rate():
    rows = [
        dict(head=name, blocks=blocks, lr=lr, seed=seed, iteration=t, test_accuracy=value if t else 0.1)
        for blocks, name, lr, values in (
            (24, "x", 0.1, (0.2, 0.95, 0.3)),
            (24, "x", 0.02, (0.91, 0.5, 0.97)),
            (24, "y", 0.1, (0.99, 0.98, 0.97)),
            (24, "y", 0.02, (0.1, 0.1, 0.1)),
            (24, "y", 0.5, (1.0, DIVERGED, DIVERGED)),
            (4, "x", 0.1, (1.0, 1.0, 1.0)),
        )
        for seed, value in enumerate(values)
        for t in ((0, 1) if value == DIVERGED else (0, 3))
    ]
    found = digit_runs.best_rates(pd.DataFrame(rows), 24)
    assert list(found.index) == ["x", "y"] and found["lr"].tolist() == [0.02, 0.1]
    assert found.loc["x", ["lowest", "median", "highest"]].tolist() == pytest.approx([50, 91, 97])
    assert found["learnt"].tolist() == [2, 3] and found["seeds"].tolist() == [3, 3]
    assert found.loc["x", ["at 0.1", "at 0.02"]].tolist() == pytest.approx([30, 91])
    assert found.loc["y", "at 0.5"] == pytest.approx(10)


def test_near_zero_the_released_floor_does_not_keep_lambda_down():
    """A step of Eq. 6 has the size of 1/λ, in either direction."""
    options = dict(seeds=[0], epochs=1, blocks=1, width=16, lambda_init=(0.0, 1e-4))
    run = activation_fits.train_digits("x", lambda_gradient="paper", floor="released", **options).final()
    assert run.filter(regex="^lam_").max(axis=None) > 100


def test_lambda_is_recorded_as_it_is_used():
    net = activation_fits.DigitNet(blocks=1, width=16, floor="released")
    net[3].lam.data.fill_(-0.2)
    kappas, lams = net.parameters_of(AGLU)
    assert lams[0] == pytest.approx(1e-8) and len(kappas) == len(lams) == 3 and min(lams[1:]) > 1e-4
