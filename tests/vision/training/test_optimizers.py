"""Learning rates over time, against their formulas written out."""

import math

import pytest
import torch

from labkit.vision.training import optimizers


def written_out(name, step, total, rise):
    """The share of the learning rate at a step, of `total`, of which the first `rise` are the warm-up."""
    if step < rise:
        return 0.01 + 0.99 * step / rise
    if name == "steps":
        return 0.1 ** ((step >= total / 2) + (step >= 3 * total / 4))
    return (1 + math.cos(math.pi * (step - rise) / (total - rise))) / 2


@pytest.mark.parametrize("warmup", [0, 1, 4, 7])  # of 9 epochs: in none, before half, and after half of them
@pytest.mark.parametrize("name", ["cosine", "cosine-by-epoch", "steps"])
def test_rates_are_those_of_the_formulas(name, warmup):
    epochs, steps = 9, 5
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    moves = optimizers.schedule(name, optimizer, epochs, steps, warmup)
    unit = 1 if optimizers.by_epoch(name) else steps
    rates = []
    for _ in range(epochs * unit):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        moves.step()
    expected = [0.3 * written_out(name, step, epochs * unit, warmup * unit) for step in range(epochs * unit)]
    assert rates == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_no_schedule():
    assert optimizers.schedule(None, torch.optim.SGD([torch.zeros(1)], lr=0.3), 9, 5) is None
