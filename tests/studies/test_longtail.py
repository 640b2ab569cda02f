"""Long-tailed studies: UFMs against a direct minimisation, rows of Table 8 by hand, paired differences against scipy."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from labkit import calibration
from labkit.studies import evidence, longtail, rates
from labkit.studies.ufms import minority
from labkit.vision import build, recipes
from labkit.vision.outputs import Outputs

ROOT = Path(__file__).resolve().parents[2]


def made_up(head="cosine", seed=0, shift=0.0, settings=None, n=400, classes=5, images="CIFAR-10"):
    """Outputs of no network: logits that know the class, and the training prior with it."""
    generator = torch.Generator().manual_seed(100 * seed + len(head))
    counts = torch.tensor([300, 120, 60, 18, 6])
    labels = torch.arange(n) % classes
    logits = 2 * torch.nn.functional.one_hot(labels, classes) + torch.randn(n, classes, generator=generator)
    logits = logits + (counts / counts.sum()).log() + shift * torch.arange(classes)
    run = build.described(recipes.RECIPES["digits"] | (settings or {}), head, seed)
    return Outputs(
        logits=logits, labels=labels, train_counts=counts, weight=torch.randn(classes, 3), entropy=torch.empty(0),
        cams=torch.empty(0, 1, 1), shown=torch.empty(0, dtype=torch.long),
        measures={"test_nc1": 1.0, "test_nc1_normalised": 0.5}, settings={"head": head, "seed": seed, "run": run, "images": images, "classes": classes},
    )  # fmt: skip


# --- minority collapse ---


def directly(num_classes, num_small, ratio, tau=5.0):
    """The smallest loss of unit features and unit class vectors, one of each a class, by L-BFGS from a random start."""
    generator = torch.Generator().manual_seed(0)
    parts = [
        torch.randn(num_classes, num_classes, generator=generator, dtype=torch.float64).requires_grad_() for _ in "WH"
    ]
    share = torch.ones(num_classes, dtype=torch.float64)
    share[: num_classes - num_small] = ratio
    share /= share.sum()
    optimizer = torch.optim.LBFGS(parts, max_iter=500, tolerance_grad=1e-10, line_search_fn="strong_wolfe")
    unit = lambda x: x / x.norm(dim=-1, keepdim=True)

    def loss():
        optimizer.zero_grad()
        logits = tau * unit(parts[1]) @ unit(parts[0]).mT
        value = (share * (logits.logsumexp(-1) - logits.diagonal())).sum()
        value.backward()
        return value

    optimizer.step(loss)
    return loss().item(), unit(parts[0].detach())


@pytest.mark.parametrize("ratio", [10, 100])
def test_training_ends_where_the_loss_is_smallest(ratio):
    end = minority.train(minority.stepped(6, 3, ratio), "standard", 300)
    loss, vectors = directly(6, 3, ratio)
    assert end.loss == pytest.approx(loss, rel=0.03)
    small = (vectors[3:] @ vectors[3:].mT)[*torch.triu_indices(3, 3, 1)].mean().item()
    assert end.small_cosine() == pytest.approx(small, abs=0.03)
    assert small > {10: 0.0, 100: 0.4}[ratio]  # a simplex ETF has −0.2


def test_the_study_of_a_fixed_etf_without_bias_is_known_in_closed_form():
    """Means end at their class vectors, so that only the correction, τ ln ratio, tells large from small classes."""
    heads, ratios, taus = {"plain": ("fixed", {"temperature": 3.0})}, [1, 7], (0.0, 0.25, 0.5)
    table = minority.study(heads, ratios, 2, 6, (0, 1), noise=0.0, taus=taus, iterations=150)
    assert len(table) == len(table[["head", "imbalance", "seed", "tau"]].drop_duplicates()) == 2 * 2 * 3
    bound = 3 * 6 / 5  # temperature · C/(C − 1)
    assert (table["small_margin"] - bound).abs().max() < 1e-4  # the largest other is a small class too
    expected = bound - table["tau"] * table["imbalance"].map(math.log)
    assert (table["large_margin"] - expected).abs().max() < 1e-4
    assert (table[["overall", "large", "small"]] == 1).all(axis=None)  # no noise: every mean is its own class
    assert table["loss"].tolist() == pytest.approx([math.log(1 + 5 * math.exp(-bound))] * len(table), rel=1e-5)


def test_etf_heads_do_not_fold():
    ends = {head: minority.train(minority.stepped(6, 3, 50), head, 150) for head in ("fixed", "implicit")}
    for end in ends.values():
        assert end.small_cosine() == pytest.approx(-1 / 5, abs=1e-5) and end.large_cosine() == pytest.approx(
            -1 / 5, abs=1e-5
        )
    assert (ends["fixed"].bias == 0).all() and (ends["implicit"].bias != 0).any()


def test_class_sizes():
    assert minority.stepped(10, 4, 30).class_sizes().tolist() == [30] * 6 + [1] * 4
    assert minority.stepped(5, 2, 3, smallest=4).class_sizes().tolist() == [12] * 3 + [4] * 2
    assert minority.stepped(5, 0, 10).class_sizes().tolist() == [10] * 5
    with pytest.raises(ValueError, match="num_small must be at most num_classes=4, got 5"):
        minority.Stepped(4, 100, 8, 10.0, 5)


def test_margins_and_accuracy_by_hand():
    end = minority.End(
        "fixed",
        torch.eye(3).double(),
        torch.tensor([0.0, 0.0, 0.5]).double(),
        2 * torch.eye(3).double(),
        torch.tensor([8, 1, 1]),
        2,
        0.0,
    )
    assert end.margins().tolist() == pytest.approx([1.5, 1.5, 2.5])
    shift = math.log(8)
    assert end.margins(1.0).tolist() == pytest.approx([1.5 - shift, 1.5, 2.5])
    assert (
        end.cosines().tolist() == torch.eye(3).tolist() and end.small_cosine() == 0 and math.isnan(end.large_cosine())
    )
    assert end.accuracy(0.0) == {"overall": 1.0, "large": 1.0, "small": 1.0}
    assert end.accuracy(0.0, tau=1.0) == pytest.approx({"overall": 2 / 3, "large": 0.0, "small": 1.0})
    noisy = end.accuracy(3.0, each=2000)
    assert noisy["overall"] == pytest.approx((noisy["large"] + 2 * noisy["small"]) / 3) and 0.3 < noisy["overall"] < 0.9


# --- Table 8 ---

TABLE = longtail.printed(8)


def test_every_row_has_settings_of_its_own():
    described = {}
    for row, flags in TABLE.iterrows():
        settings = recipes.RECIPES["apa/cifar10-lt"] | longtail.changes(flags, epochs=20)
        run = build.described(settings, settings["head"][0], 0)
        found = longtail.rows_of(run, TABLE)
        assert row in found
        described[row] = found
    pairs = {1: [1, 2], 2: [1, 2], 9: [9, 10], 10: [9, 10], 11: [11, 12], 12: [11, 12]}  # epochs apart; the correction
    assert described == {row: pairs.get(row, [row]) for row in TABLE.index}


def test_the_list_of_runs_has_every_row():
    listed = [run for run in evidence.read(ROOT / "evidence.toml") if run.entry.startswith("cifar10-lt")]
    rows = {}
    for run in listed:
        for row in longtail.rows_of(run.settings, TABLE):
            if run.settings["epochs"] == longtail.changes(TABLE.loc[row], longtail.EPOCHS)["epochs"]:
                rows.setdefault(row, []).append(run)
    assert rows.keys() == set(TABLE.index)
    for row in (1, 2, 3, 4, 5, 6, 7, 8, 13, 14):
        assert [run.varied for run in rows[row]] == [f"row-{row}"]


def test_the_last_row_is_the_recipe():
    recipe = recipes.RECIPES["apa/cifar10-lt"]
    exact = {"lambda_gradient": "exact"}  # where the released code has Eq. 6
    assert recipe | longtail.changes(TABLE.loc[16], recipe["epochs"]) == recipe | exact
    first = longtail.changes(TABLE.loc[1], 200)
    assert (first["epochs"], first["backbone"], first["head"], first["mixup"]) == (
        100,
        "resnet32",
        ["standard_no_norm"],
        None,
    )


def of_row(row, seed=0, epochs=20, **more):
    change = longtail.changes(TABLE.loc[row], epochs)
    return made_up(change["head"][0], seed, settings=recipes.RECIPES["apa/cifar10-lt"] | change, **more)


def test_staircase_takes_both_rows_from_one_network():
    runs = {f"9 {seed}": of_row(9, seed) for seed in (0, 1, 2)} | {"1": of_row(1), "2": of_row(2)}
    found = longtail.staircase(runs, TABLE, 20)
    assert longtail.staircase(runs, TABLE, 100)["seeds"].sum() == 0  # runs of another length are no rows
    channels = recipes.RECIPES["apa/cifar10-lt"] | longtail.changes(TABLE.loc[16], 20) | {"per_channel": True}
    assert longtail.staircase({"7": made_up(settings=channels)}, TABLE, 20)["seeds"].sum() == 0  # Table 7, not 8
    milder = made_up(
        settings=recipes.RECIPES["apa/cifar10-lt"] | longtail.changes(TABLE.loc[9], 20) | {"imbalance": 10}
    )
    assert longtail.staircase({"10": milder} | runs, TABLE, 20).equals(found)  # nor of another imbalance
    assert longtail.staircase({"10": milder}, TABLE, 20, imbalance=10).loc[[9, 10], "seeds"].tolist() == [1, 1]
    assert longtail.staircase({"1": of_row(1)}, TABLE, 20)["seeds"].tolist() == [1] + [0] * 15
    assert found.index[found["seeds"] > 0].tolist() == [1, 2, 9, 10]
    assert found.loc[[9, 10], "seeds"].tolist() == [3, 3] and found.loc[1, "seeds"] == 1 and found.loc[16, "seeds"] == 0
    by_hand = {False: [], True: []}
    for seed in (0, 1, 2):
        run = runs[f"9 {seed}"]
        n = run.train_counts.double()
        for corrected in by_hand:
            logits = run.logits + (((n.sum() - n) / n).log() if corrected else 0)
            by_hand[corrected].append(100 * (logits.argmax(-1) == run.labels).double().mean().item())
    assert found.loc[9, "ours"] == pytest.approx(np.median(by_hand[False])) and found.loc[10, "ours"] == pytest.approx(
        np.median(by_hand[True])
    )
    assert found.loc[10, "values"] == pytest.approx(by_hand[True]) and found.loc[16, "values"] == []
    assert found.loc[10, "high"] == pytest.approx(max(by_hand[True])) and found.loc[10, "ours"] > found.loc[9, "ours"]
    assert "rows 3, 4, 5, 6, 7, 8, 11, 12, 13, 14, 15, 16 of Table 8" in longtail.missing(runs, TABLE, 20)
    assert longtail.missing({}, TABLE).startswith("Of no row of Table 8")


def test_runs_that_differ_in_more_than_the_seed_are_not_pooled():
    other = longtail.changes(TABLE.loc[9], 20) | {"batch_size": 64}
    runs = {"a": of_row(9), "b": made_up("cosine", 1, settings=recipes.RECIPES["apa/cifar10-lt"] | other)}
    with pytest.raises(
        ValueError, match="runs of row 9 differ in more than the seed: batch_size is 512 there, 64 here"
    ):
        longtail.staircase(runs, TABLE, 20)


def test_runs_on_other_images_are_other_runs(tmp_path):
    """The settings do not know whether CIFAR-10's pixels were in a JPEG file."""
    copies = {f"implicit {seed}": made_up("implicit", seed, images="CIFAR-10, JPEG re-encoded") for seed in (0, 1)}
    pixels = {f"cosine {seed}": made_up("cosine", seed) for seed in (0, 1)}
    assert longtail.heads_of_one_setting(copies | pixels) == {}
    for name, images in (("a", "CIFAR-10"), ("b", "CIFAR-10, JPEG re-encoded")):
        made_up(images=images).save(tmp_path / f"cifar10-lt-{name}" / "outputs.npz")
    assert len(longtail.load(tmp_path)) == 2
    runs = {"a": of_row(9), "b": of_row(9, seed=1, images="CIFAR-10, JPEG re-encoded")}
    with pytest.raises(ValueError, match="images is 'CIFAR-10' there, 'CIFAR-10, JPEG re-encoded' here"):
        longtail.staircase(runs, TABLE, 20)


def test_heads_are_compared_at_one_setting():
    heads = {
        f"{head} {seed}": made_up(head, seed, settings={"temperature": t, "lr": lr})
        for head, t, lr in (("cosine", 16.0, 0.1), ("fixed", 5.0, 0.3))
        for seed in (0, 1)
    }
    others = {"x": made_up("implicit", 0, settings={"epochs": 7}), "y": made_up("cosine", 0, settings={"epochs": 9})}
    assert longtail.heads_of_one_setting(others | heads) == heads
    assert longtail.heads_of_one_setting(others) == {} and longtail.heads_of_one_setting({}) == {}
    fixed = {"temperature": 5.0, "lr": 0.3}
    of_others = made_up("fixed", 2, settings=fixed | {"head_options": {"implicit": {"alpha": 0.1}}})  # not its own
    assert len(longtail.heads_of_one_setting(heads | {"more": of_others})) == 5
    for change, message in (
        ({"lr": 0.6}, "lr is 0.3 there, 0.6 here"),
        ({"temperature": 20.0}, "temperature is 5.0 there, 20.0 here"),
        ({"head_options": {"fixed": {"frame": "haar"}}}, "frame is 'missing' there, 'haar' here"),
    ):
        with pytest.raises(ValueError, match=f"runs of 'fixed' differ in more than the seed: {message}"):
            longtail.heads_of_one_setting(heads | {"other": made_up("fixed", 2, settings=fixed | change)})


def test_networks_are_compared_at_one_setting():
    recipe = recipes.RECIPES["apa/cifar10-lt"] | {"epochs": 30, "lambda_gradient": "exact"}
    plain = {"attention_norm": False, "attention_dropout": 0.0}
    changes = {
        "ReLU": {"backbone": "resnet32", "activation": "relu", "gate": None, **plain},
        "AGLU": {"backbone": "resnet32", "gate": None, **plain},
        "ReLU, SE": {"activation": "relu", "gate": "sigmoid", **plain},
        "AGLU, SE": {"gate": "sigmoid", **plain},
        "ReLU, APA gate": {"activation": "relu"},
        "ReLU, APA gate without norm and dropout": longtail.changes(TABLE.loc[13], 30) | {"activation": "relu"},
        "ReLU, APA gate without norm": longtail.changes(TABLE.loc[14], 30) | {"activation": "relu"},
        "APA*": {},
        "APA*, Eq. 6": {"lambda_gradient": "paper"},
        "APA*, per channel": {"per_channel": True},
    }
    runs = {
        f"{name} {seed}": made_up("cosine", seed, settings=recipe | change)
        for name, change in changes.items()
        for seed in (0, 1)
    }
    assert {longtail.network(run) for run in runs.values()} == set(changes)
    assert all(name[:-2] == longtail.network(run) for name, run in runs.items())
    other = {
        "other head": made_up("fixed", 0, settings=recipe),
        "other epochs": made_up("cosine", 0, settings=recipe | {"epochs": 9}),
    }
    assert longtail.networks_of_one_setting(other | runs) == runs and longtail.networks_of_one_setting(other) == {}
    found = {
        row: longtail.rows_of(runs[f"{name} 0"].settings["run"], TABLE)
        for row, name in ((9, "ReLU"), (11, "ReLU, SE"), (15, "ReLU, APA gate"), (16, "APA*"), (0, "APA*, Eq. 6"))
    }
    assert found == {9: [9, 10], 11: [11, 12], 15: [15], 16: [16], 0: []}
    normed = made_up("cosine", 2, settings=recipe | changes["ReLU, SE"] | {"attention_norm": True})
    with pytest.raises(ValueError, match="runs of 'ReLU, SE' differ .*: attention_norm is False there, True here"):
        longtail.networks_of_one_setting(runs | {"normed": normed})


def test_the_networks_table_says_what_a_network_has_and_splits_its_entropy():
    recipe = recipes.RECIPES["apa/cifar10-lt"] | {"lambda_gradient": "exact"}
    aglu = made_up("cosine", 1, settings=recipe | {"backbone": "resnet32", "gate": None, "attention_norm": False})
    se = made_up("cosine", 1, settings=recipe | {"activation": "relu", "gate": "sigmoid", "attention_norm": False})
    star = made_up("cosine", 1, settings=recipe)
    entropy = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)[star.labels]  # by class
    runs = {"a": aglu, "s": dataclasses.replace(se, entropy=entropy), "p": dataclasses.replace(star, entropy=entropy)}
    table = longtail.networks_table(runs, [1.0]).set_index("network")
    assert table[["activation", "attention"]].T.to_dict("list") == {
        "AGLU": ["AGLU", "none"], "ReLU, SE": ["ReLU", "SE"], "APA*": ["AGLU", "APA"],
    }  # fmt: skip
    split = table.loc["APA*", ["entropy_many", "entropy_medium", "entropy_few"]].astype(float)
    assert split.tolist() == pytest.approx([0.2, 0.5, 0.8])  # of 300 and 120, 60, 18 and 6 images
    assert table.loc["AGLU", ["entropy", "entropy_many"]].isna().all()
    pd.testing.assert_frame_equal(
        table.reset_index()[["run", "overall", "ece"]], longtail.heads_table(runs, [1.0])[["run", "overall", "ece"]]
    )


def test_stored_runs_are_found(tmp_path):
    assert longtail.load(tmp_path) == {}
    made_up().save(tmp_path / "cifar10-lt-a" / "cosine-seed-0-outputs.npz")
    made_up(seed=1).save(tmp_path / "cifar10-lt-a" / "cosine-seed-1-outputs.npz")
    made_up().save(tmp_path / "other" / "x-outputs.npz")
    made_up().save(tmp_path / "cifar10-lt-b" / "again-outputs.npz")  # the same settings: one run in two entries
    found = longtail.load(tmp_path)
    assert list(found) == ["cifar10-lt-a/cosine-seed-0-outputs", "cifar10-lt-a/cosine-seed-1-outputs"]


# --- tables ---


def test_heads_table_is_what_calibration_says():
    runs = {f"{head} {seed}": made_up(head, seed) for head in ("cosine", "fixed") for seed in (0, 1, 2)}
    table = longtail.heads_table(runs, bins=10)
    assert len(table) == 12 and set(table["tau"]) == {0.0, 1.0}
    row = table.query("run == 'fixed 1' and tau == 1").iloc[0]
    logits = calibration.correct_prior(runs["fixed 1"].logits.double(), runs["fixed 1"].train_counts, 1.0, "odds")
    expected = calibration.group_accuracy(logits, runs["fixed 1"].labels, runs["fixed 1"].train_counts)
    assert {key: row[key] for key in expected} == pytest.approx(expected)
    assert row["ece"] == calibration.calibration_error(logits, runs["fixed 1"].labels, 10)["ece"] and math.isnan(
        row["entropy"]
    )
    curves = longtail.by_tau(runs["fixed 1"], [0.0, 1.0])
    assert curves["few"].tolist() == pytest.approx(table.query("run == 'fixed 1'")["few"].tolist())
    assert set(longtail.best(table).index) == {0.0, 1.0}


def test_paired_differences_have_the_interval_of_student():
    generator = np.random.default_rng(0)
    table = pd.DataFrame(
        {"head": ["a"] * 5 + ["b"] * 5, "seed": [*range(5), *range(5)], "few": generator.normal(size=10)}
    )
    found = longtail.paired(table, "few", "a", "b")
    gaps = table["few"].to_numpy()[:5] - table["few"].to_numpy()[5:]
    half = 2.7764 * gaps.std(ddof=1) / 5**0.5
    assert (found["difference"], found["low"], found["high"]) == pytest.approx(
        (gaps.mean(), gaps.mean() - half, gaps.mean() + half), rel=1e-4
    )
    for seeds, quantile in ((2, 12.706), (3, 4.303), (10, 2.262)):  # of a printed table of Student's t, two-sided 5 %
        gaps = pd.Series(generator.normal(size=seeds))
        mean, low, high = rates.interval(gaps)
        assert (high - mean, mean - low) == pytest.approx([quantile * gaps.std() / seeds**0.5] * 2, rel=1e-4)
    assert longtail.paired(table.iloc[:-1], "few", "a", "b")["seeds"] == 4
    with pytest.raises(ValueError, match="'a' has a seed twice"):
        longtail.paired(pd.concat([table, table]), "few", "a", "b")


def test_sentences_claim_no_more_than_the_interval():
    gap = {"difference": 0.012, "low": -0.01, "high": 0.034, "seeds": 3, "same_sign": True}
    assert longtail.sentence(gap, "a", "b", "few").startswith("few: 3 seeds do not tell a and b apart (+1.2 points")
    gap |= {"difference": -0.02, "low": -0.03, "high": -0.01}
    assert longtail.sentence(gap, "a", "b", "few") == "few: a is 2.0 points below b (95 % interval 1.0 to 3.0, 3 seeds)"
    gap |= {"seeds": 1, "low": math.nan, "high": math.nan}
    assert "no comparison" in longtail.sentence(gap, "a", "b", "few")


def test_digits_train_and_are_reproducible():
    settings = longtail.DIGITS | {"epochs": 2, "measure_at": 2}
    one, two = (longtail.digits(["cosine"], [3], settings)["cosine, seed 3"] for _ in range(2))
    assert torch.equal(one.logits, two.logits) and one.train_counts.tolist() == [119, 85, 61, 43, 31, 22, 16, 11, 8, 5]
    assert dataclasses.asdict(one)["settings"]["run"]["imbalance"] == 20
