"""Explorers of long tails without a browser: numbers in titles and curves, and every control at its ends."""

import itertools
import re

import numpy as np
import pytest
import torch

from labkit import calibration
from labkit.vision.outputs import Outputs
from labkit.widgets import longtail


def made_up(seed):
    generator = torch.Generator().manual_seed(seed)
    labels, counts = torch.arange(300) % 5, torch.tensor([200, 90, 40, 12, 5])
    logits = 3 * torch.nn.functional.one_hot(labels, 5) + 2 * torch.randn(300, 5, generator=generator)
    return Outputs(
        logits=logits + (counts / counts.sum()).log(), labels=labels, train_counts=counts, weight=torch.randn(5, 3),
        entropy=torch.empty(0), cams=torch.empty(0, 1, 1), shown=torch.empty(0, dtype=torch.long),
    )  # fmt: skip


RUNS = {"one": made_up(0), "two": made_up(1)}


def percents(figure):
    return [float(x) / 100 for x in re.findall(r"(\d+\.\d)%", figure.layout.title.text)]


def test_reliability_says_what_calibration_says():
    explorer = longtail.ReliabilityExplorer(RUNS)
    for run, t, tau, mass in itertools.product(RUNS, (0.1, 1.0, 10.0), (0.0, 2.0), (False, True)):
        figure = explorer.figure(run, t, tau, 10, mass)
        logits = calibration.correct_prior(RUNS[run].logits.double(), RUNS[run].train_counts, tau, "odds") / t
        found = calibration.calibration_error(logits, RUNS[run].labels, 10, mass)
        p = logits.softmax(-1)
        accuracy = (p.argmax(-1) == RUNS[run].labels).double().mean().item()
        assert percents(figure) == pytest.approx(
            [found["ece"], found["mce"], accuracy, p.max(-1).values.mean().item()], abs=6e-4
        )


def test_a_temperature_moves_confidence_and_not_accuracy():
    explorer = longtail.ReliabilityExplorer(RUNS)
    _, _, *first = percents(explorer.present())
    explorer.set(temperature=5.0)
    _, _, *second = percents(explorer.present())
    assert first[0] == second[0] and second[1] < first[1] - 0.1


def test_prior_explorer_shows_groups_and_classes():
    explorer = longtail.PriorExplorer(RUNS)
    for run, tau, kind in itertools.product(RUNS, (0.0, 0.65, 0.975, 2.0), ("odds", "prior")):
        figure = explorer.figure(run, tau, kind)
        logits = calibration.correct_prior(RUNS[run].logits, RUNS[run].train_counts, tau, kind)
        expected = calibration.group_accuracy(logits, RUNS[run].labels, RUNS[run].train_counts)
        assert percents(figure)[:4] == pytest.approx(list(expected.values()), abs=6e-4)
        dots = next(trace for trace in figure.data if trace.name == "present τ")
        np.testing.assert_allclose(dots.y, calibration.recall(logits.argmax(-1), RUNS[run].labels, 5), atol=1e-6)
        assert list(dots.x) == ["0 (200)", "1 (90)", "2 (40)", "3 (12)", "4 (5)"]


def test_rare_classes_gain_and_frequent_ones_pay():
    explorer = longtail.PriorExplorer(RUNS)
    recalls = np.array([explorer.recalls("one", tau, "odds") for tau in np.linspace(0, 2, 9)])
    assert (np.diff(recalls[:, 0]) <= 0).all() and (np.diff(recalls[:, -1]) >= 0).all()
    assert recalls[-1, 0] < recalls[0, 0] and recalls[-1, -1] > recalls[0, -1]


def test_imbalance_explorer_over_its_heads():
    explorer = longtail.ImbalanceExplorer(5, iterations=40)
    for head in longtail.HEADS:
        figure = explorer.figure(head, 20, 2, 5.0, 1.0, 0.3)
        end = explorer.end(head, 20, 2, 5.0)
        assert f"cosine between small classes {end.small_cosine():.2f}" in figure.layout.title.text
        assert percents(figure) == pytest.approx([end.accuracy(1.0, t)["overall"] for t in (0.0, 0.3)], abs=6e-4)
        cosines = next(trace for trace in figure.data if trace.type == "heatmap")
        np.testing.assert_allclose(np.array(cosines.z, float), end.cosines(), atol=1e-5)
    for few in (0, 1, 4):
        assert explorer.figure("standard", 1, few, 2.0, 0.0, 0.0).data
    assert explorer.end("implicit ETF", 20, 2, 5.0) is explorer.end("implicit ETF", 20, 2, 5.0)  # not trained twice
    assert longtail.ImbalanceExplorer(5, 40).end("standard", 20, 2, 5.0).small_cosine() > -0.1
