"""The best rate of each head, and what is said of rates at the edge."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from labkit.history import History
from labkit.studies import rates


def table(**heads):
    rows = [
        (h, rate, seed, v) for h, of in heads.items() for rate, values in of.items() for seed, v in enumerate(values)
    ]
    return pd.DataFrame(rows, columns=["head", "rate", "seed", "loss"])


def test_the_median_over_seeds_counts_and_each_head_has_its_own_rate():
    ends = table(standard={0.1: [3, 3, 3], 0.2: [1, 9, 2], 0.4: [4, 4, 4]}, fixed={0.01: [2], 0.1: [1], 0.2: [5]})
    assert rates.best(ends, "loss", largest=False).to_dict() == {"standard": 0.2, "fixed": 0.1}


def test_a_run_that_did_not_train_is_never_best():
    ends = table(fixed={0.1: [3.0], 0.2: [2.0], 0.4: [float("nan")], 0.8: [5.0]})
    assert rates.best(ends, "loss", largest=False)["fixed"] == 0.2


def test_a_rate_at_which_most_seeds_do_not_train_is_not_best_by_the_one_that_does():
    missing = float("nan")
    ends = table(fixed={0.1: [0.1] * 3, 0.2: [0.8] * 3, 0.4: [missing, missing, 0.9], 0.8: [missing] * 3})
    assert rates.best(ends, "loss")["fixed"] == 0.2


def test_a_head_that_never_trained_has_no_best_rate():
    ends = table(fixed={0.1: [float("nan")], 0.2: [float("nan")]}, standard={0.1: [1.0], 0.2: [2.0], 0.4: [3.0]})
    with pytest.raises(ValueError, match="no run of fixed has loss, at no rate"):
        rates.best(ends, "loss")


@pytest.mark.parametrize("largest, rate", [(True, 0.4), (False, 0.1)])
def test_a_rate_at_the_edge_is_named(largest, rate):
    ends = table(fixed={0.1: [1.0], 0.2: [2.0], 0.4: [3.0]})
    with pytest.warns(UserWarning, match=f"fixed is best at {rate}, the edge"):
        assert rates.best(ends, "loss", largest=largest)["fixed"] == rate


def test_the_rate_is_that_of_the_settings_and_not_what_a_schedule_left(tmp_path):
    frame = pd.DataFrame({"head": "fixed", "seed": 0, "iteration": [0, 1], "lr": [0.5, 0.0], "loss": [2.0, 1.0]})
    History(frame, {"run": {"lr": 0.5, "backbone": "vit_mini"}}).save(tmp_path / "a.parquet")
    (end,) = rates.read(tmp_path, "backbone").itertuples()
    assert (end.rate, end.loss, end.run, end.backbone) == (0.5, 1.0, "a", "vit_mini")
    History(frame, {"run": {}}).save(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="b.parquet is not of a run with a learning rate"):
        rates.read(tmp_path)
    with pytest.raises(FileNotFoundError, match="no runs in"):
        rates.read(tmp_path / "none")


def test_a_difference_that_is_missing_does_not_count():
    """An interval over three seeds, of which one has no partner, is that over two."""
    two = pd.Series([1.0, 2.0])
    assert rates.interval(pd.Series([1.0, float("nan"), 2.0])) == rates.interval(two)
    assert rates.interval(two)[1] == pytest.approx(1.5 - 12.706204736 / 2, rel=1e-6)  # t at 1 degree of freedom


def test_a_contrast_of_two_groups_is_the_t_test_of_equal_variances():
    a, b = [1.0, 2.5, 4.0, 2.0], [3.0, 6.0, 5.5]
    asked = stats.ttest_ind(b, a).confidence_interval(0.95)
    assert rates.contrast({"a": a, "b": b}, "b", "a")[1:] == pytest.approx((asked.low, asked.high))


def test_a_single_run_is_judged_by_the_scatter_of_the_others():
    """By hand: squares 2 and 2 about the means, 3 degrees of freedom, and the difference of one value and of three."""
    groups = {"a": [1.0, 2.0, 3.0], "b": [4.0], "c": [7.0, 9.0], "none": []}
    half = stats.t.ppf(0.975, 3) * math.sqrt(4 / 3 * (1 + 1 / 3))
    assert rates.contrast(groups, "b", "a") == pytest.approx((2.0, 2 - half, 2 + half))
    assert np.isnan(rates.contrast(groups, "none", "a")).all()
    mean, low, high = rates.contrast({"a": [1.0], "b": [2.0]}, "b", "a")
    assert mean == 1 and math.isnan(low) and math.isnan(high)
