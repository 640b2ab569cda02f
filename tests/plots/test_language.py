"""The numbers in the figures of language."""

import numpy as np
import pandas as pd
import pytest

from labkit.plots import language


def runs():
    rows = [
        dict(head=head, seed=seed, iteration=step, validation_loss=4 - step / 100 - seed / 10 - (head == "aglu"))
        | {f"{p}_{k}": step + 10 * k + seed for p in ("kappa", "lambda") for k in (1, 2)}
        for head in ("gelu", "aglu")
        for seed in (0, 1, 2)
        for step in (0, 50)
    ]
    return pd.DataFrame(rows)


def test_losses_are_medians_over_seeds():
    figure = language.losses(runs())
    lines = {t.name: t for t in figure.data if t.mode == "lines" and t.fill is None}
    assert np.allclose(lines["GELU"].y, [3.9, 3.4]) and np.allclose(lines["AGLU"].y, [2.9, 2.4])


def test_an_activation_without_a_look_of_its_own_is_drawn():
    lines = {t.name: t for t in language.losses(runs().replace("gelu", "mine")).data if t.fill is None}
    assert set(lines) == {"AGLU", "mine"} and np.allclose(lines["mine"].y, [3.9, 3.4])


def test_depth_shows_every_seed_before_and_after():
    kappa = [t for t in language.depth(runs().query("head == 'aglu'")).data if t.yaxis == "y"]
    before, after, first, last = kappa
    assert sorted(before.y) == [10, 11, 12, 20, 21, 22] and sorted(after.y) == [60, 61, 62, 70, 71, 72]
    assert list(first.y) == [11, 21] and list(last.y) == [61, 71] and list(before.x[:2]) == [1, 2]


def test_letters_stand_at_their_frequency_and_margin():
    table = pd.DataFrame({"text": ["e", " ", "\n"], "count": [100, 1000, 10], "margin": [0.5, -0.1, 0.9]})
    (letters,) = [t for t in language.margins_by_frequency({"gelu": table}).data if t.mode == "text"]
    assert list(letters.text) == ["e", "␣", "⏎"] and list(letters.x) == [100, 1000, 10]
    assert np.allclose(letters.y, [0.5, -0.1, 0.9])
    both = language.margins_by_frequency({"gelu": table, "aglu": table})
    assert [t.name for t in both.data if t.showlegend] == ["GELU", "AGLU"]


def test_the_drawn_token_is_shown_even_where_it_is_unlikely():
    p = np.full(20, 0.05)
    p[:3] = 0.2, 0.001, 0.099
    bars = language.next_tokens([chr(97 + k) for k in range(20)], p, 1, "title").data[0]
    assert bars.x[0] == pytest.approx(0.2) and bars.x[1] == pytest.approx(0.099) and bars.x[-1] == pytest.approx(0.001)
    assert list(bars.marker.color).count("#D55E00") == 1 and bars.marker.color[-1] == "#D55E00"


def test_text_cannot_become_a_tag_of_the_figure():
    assert language.wrapped("<b>a & b") == "&lt;b&gt;a &amp; b"
    lines = language.wrapped("word " * 40, 20, last=3).split("<br>")
    assert len(lines) == 3 and all(len(line) <= 20 for line in lines)
