"""Collapse in language against numbers written out with loops, and runs that are measured at their end."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from labkit.history import History
from labkit.studies import language
from labkit.text.gpt import gpt
from labkit.text.recipes import RECIPES

TINY = dict(size="tiny", context=16, batch_size=4, micro_batch=4, steps=4, warmup=2, measure_every=2)
TINY |= dict(validation_batches=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return gpt("tiny", vocabulary=7, context=8)


@pytest.fixture(scope="module")
def tokens():
    shares = [0.4, 0.3, 0.1, 0.1, 0.07, 0.03, 0.0]  # token 6 never occurs
    return np.random.default_rng(0).choice(7, size=801, p=shares)


def places(model, tokens, context=8):
    """(feature, next token) of every place, row by row."""
    found = []
    for start in range(0, len(tokens) - context, context):
        row = torch.tensor(tokens[start : start + context])[None]
        with torch.no_grad():
            h = model.transformer(row).last_hidden_state[0]
        found += [(h[k].double().numpy(), int(tokens[start + k + 1])) for k in range(context)]
    return found


def test_measures_are_those_written_out(model, tokens):
    found = language.collapse_of(model.eval(), tokens, 8, least=50)
    samples = places(model, tokens)
    counts = np.bincount([y for _, y in samples], minlength=7)
    kept = [c for c in range(7) if counts[c] >= 50]
    assert 2 < len(kept) < 6  # some are left out, and one never comes
    assert found.values["classes"] == len(kept)
    assert found.values["left_out"] == sum(0 < n < 50 for n in counts)
    inside = [(h, kept.index(y)) for h, y in samples if y in kept]
    features = np.stack([h for h, _ in inside])
    labels = np.array([y for _, y in inside])
    C, N = len(kept), len(labels)
    means = np.stack([features[labels == c].mean(0) for c in range(C)])
    mu = features.mean(0)
    residual = features - means[labels]
    within, between = residual.T @ residual / N, (means - mu).T @ (means - mu) / C
    assert found.values["nc1"] == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-12)) / C, rel=1e-4)
    weight = model.lm_head.weight.detach().double().numpy()[kept]
    logits = features @ weight.T
    centred_weight, centred = weight - weight.mean(0), features - mu
    table = found.tokens.set_index("token")
    for c, token in enumerate(kept):
        margins = []
        for h in centred[labels == c]:
            cosines = [w @ h / np.linalg.norm(w) / np.linalg.norm(h) for w in centred_weight]
            margins.append(cosines[c] - max(cosines[:c] + cosines[c + 1 :]))
        mine = labels == c
        assert table.loc[token, "count"] == mine.sum()
        assert table.loc[token, "margin"] == pytest.approx(np.mean(margins), abs=1e-5)
        assert table.loc[token, "accuracy"] == pytest.approx((logits[mine].argmax(1) == c).mean())
        spread = (residual[mine] ** 2).sum(1).mean() / (centred**2).sum(1).mean()
        assert table.loc[token, "variance"] == pytest.approx(spread, rel=1e-4)
    assert found.values["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    whole = (table["margin"] * table["count"]).sum() / table["count"].sum()
    assert found.values["cosine_margin"] == pytest.approx(whole, abs=1e-6)


def test_rows_are_spread_over_all_of_the_text(model, tokens):
    ten = language.collapse_of(model, np.concatenate([tokens, np.full(799, 6)]), 8, samples=400, least=10)
    assert ten.tokens.set_index("token").loc[6, "count"] == pytest.approx(200, abs=8)


def test_too_little_is_refused(model):
    with pytest.raises(ValueError, match="only 1 tokens come next"):
        language.collapse_of(model, np.zeros(100, int), 8)
    with pytest.raises(ValueError, match="too few for one row"):
        language.collapse_of(model, np.zeros(8, int), 8)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 60)
    return tmp_path


def test_a_run_is_measured_at_its_end_and_kept(corpus, tmp_path):
    settings = RECIPES["char-gpt/tinyshakespeare"] | TINY
    history = language.train(settings, "aglu", 0, tmp_path / "run", data=corpus)
    last = history.final().iloc[0]
    assert history.frame["nc1"].notna().tolist() == [False, False, True]
    assert (
        last["iteration"] == 4
        and last["classes"] == len(set("To be, or not to be: that is the question.\n"))
        and np.isfinite(last[language.MEASURES].astype(float)).all()
    )
    kept = History.load(tmp_path / "run" / "history.parquet")
    assert language.tokens_of(kept).equals(language.tokens_of(history))
    letters = language.tokens_of(kept).set_index("text")["count"]
    assert letters["t"] > letters["q"] and len(kept.settings["sample"]) == 400
    # Gone on with after its end, nothing is trained and the measures are the same.
    again = language.train(settings, "aglu", 0, tmp_path / "run", data=corpus)
    assert again.final()["nc1"].tolist() == history.final()["nc1"].tolist()


def test_token_shards_are_refused():
    with pytest.raises(ValueError, match="too many classes"):
        language.train(RECIPES["gpt2-small/fineweb-edu"], "gelu")


def test_hellaswag_of_models_that_cannot_know():
    """The stored numbers: both intervals by both rules lie about 25 %, and are Wilson's of the accuracies."""
    floor = History.load(Path(__file__).parents[2] / "data/results/hellaswag-floor.parquet")
    assert floor.frame["head"].tolist() == ["untrained", "bigram"] and (floor.frame["tasks"] == 10_042).all()
    for row in floor.frame.to_dict("records"):
        for by in ("mean", "sum"):
            accuracy, low, high = (row[f"{by}_{name}"] for name in ("accuracy", "low", "high"))
            assert abs(accuracy - 0.25) < 3 * (0.25 * 0.75 / 10_042) ** 0.5
            assert low < accuracy < high
            for end in (low, high):  # an end is the share from which the accuracy is 1.96 standard errors away
                assert abs(accuracy - end) == pytest.approx(1.96 * (end * (1 - end) / 10_042) ** 0.5, rel=1e-6)


def test_paired_differences():
    ends = pd.DataFrame({"head": ["a"] * 5 + ["b"] * 5, "seed": [*range(5)] * 2})
    a, b = np.array([1.0, 1.2, 0.9, 1.1, 1.4]), np.array([1.1, 1.1, 1.3, 1.2, 1.6])
    for scale in (1, 1e-4):  # a small difference is not rounded away
        found = language.paired(ends.assign(validation_loss=[*(scale * a), *(scale * b)]), "a", "b")
        low, high = (scale * end for end in stats.ttest_rel(a, b).confidence_interval())
        assert found == pytest.approx({"mean": -0.14 * scale, "low": low, "high": high, "below": 4, "seeds": 5})
