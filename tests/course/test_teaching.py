"""The numbers in docs/teaching.md are right, and what it names is there."""

import math
import re
from pathlib import Path

import pytest
import torch

from labkit import etf, metrics
from labkit.course.exercises import exercises
from labkit.nearest import start_frame

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "teaching.md").read_text()


def bounds(tau=5.0):
    return [etf.cross_entropy_bound(C, tau) for C in (10, 1000)]


def nc1_of_two_classes(s):
    return float(metrics.nc1(torch.tensor([[-1 - s], [s - 1], [1 - s], [1 + s]]).double(), torch.tensor([0, 0, 1, 1])))


def distance_by_the_nearest_etf():
    U, Q = (
        etf.haar_frame(5, 2, torch.Generator().manual_seed(0), dtype=torch.float64),
        etf.simplex_basis(3, torch.float64),
    )
    H = U @ torch.diag(torch.tensor([0.8, 0.6], dtype=torch.float64)) @ Q.mT
    V = start_frame(H)
    return (H - (V - V.mean(-1, keepdim=True)) / math.sqrt(2)).norm().item()


def mean_age(t):
    ages, weights = [], []
    for step in range(1, t + 1):
        alpha = max(2 / (step + 1), 1e-4)
        weights, ages = [w * (1 - alpha) for w in weights] + [alpha], [a + 1 for a in ages] + [0]
    return sum(w * a for w, a in zip(weights, ages))


NUMBERS = {
    "−0.25": (etf.simplex_etf(5)[:, 0] @ etf.simplex_etf(5)[:, 1]).item(),
    "104.5°": math.degrees(math.acos(-1 / 4)),
    "90.06°": math.degrees(math.acos(-1 / 999)),
    "0.005 for": nc1_of_two_classes(0.1),
    "0.0342": bounds()[0],
    "2.041": bounds()[1],
    "0.966": math.exp(-bounds()[0]),
    "0.130": math.exp(-bounds()[1]),
    "9.09": 0.999 * math.log(999 * 0.9 / 0.1),
    "0.142": distance_by_the_nearest_etf(),
    "0.222": 2 / 9,
    "0.002 for": 2 / 999,
    "105 MB": (512 * 10) ** 2 * 4 / 1e6,
    "4.19 TB": (1024 * 1000) ** 2 * 4 / 1e12,
    "0.368": math.exp(-1),
    "33 steps": mean_age(100),
    "0.0625": 2 / 2**5,
}


@pytest.mark.parametrize("printed", NUMBERS)
def test_numbers_of_the_exam_are_right(printed):
    exam = TEXT.split("## Ten exam questions")[1].split("\n## ")[0]
    assert printed in exam
    number = float(re.match(r"[−\d.]+", printed)[0].replace("−", "-"))
    digits = len(re.match(r"[−\d.]+", printed)[0].partition(".")[2])
    assert round(NUMBERS[printed], digits) == pytest.approx(number)


def test_ninety_percent_is_reached_at_that_temperature():
    assert math.exp(-etf.cross_entropy_bound(1000, 9.0949)) == pytest.approx(0.9, abs=1e-5)


def test_exercises_and_files_that_are_named_exist():
    root = Path(__file__).resolve().parents[2]
    names = set(re.findall(r"`([a-z0-9-]+)`", TEXT.split("## Ninety")[0].split("## Four labs")[1]))
    assert names - {"zero_grad"} <= set(exercises())
    for path in re.findall(r"`((?:tests|labkit|data)/[\w./-]+)`", TEXT):
        assert (root / path).exists(), path
