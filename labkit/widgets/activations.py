"""The interactive figure of APA and AGLU; `labkit.widgets.base` has what all explorers share."""

import numpy as np
import torch

from labkit import plots
from labkit.history import History
from labkit.widgets.base import Explorer, box, log_slider, menu, slider

# The ranges of the supplement's Tables 2, 5 and 6; λ ~ U(0, 1) with all of them.
RANGES = {
    "none": None,
    "κ ~ U(0, 1)": (0.0, 1.0),
    "κ ~ U(−2, 0)": (-2.0, 0.0),
    "κ ~ U(−3, 0)": (-3.0, 0.0),
    "κ ~ U(−2, 2)": (-2.0, 2.0),
    "κ ~ U(1, 1.3)": (1.0, 1.3),
    "κ ~ U(−1, 0)": (-1.0, 0.0),
}
EPOCHS = {"AGLU": 1, "APA": 4}  # after which networks differ most: AGLU's learn fast, with gates alone they are slow


class APAExplorer(Explorer):
    """κ and λ by sliders: the function beside familiar ones, its derivatives in z, κ and λ, where layers start, and
    what a network makes of it.

    effect: the History of `activation_study.held`, which gives the map its colours: networks with all activations held
        at (κ, λ).
    """

    def __init__(self, effect: History | None = None):
        self._maps = {} if effect is None else {name: _map(effect.frame, name) for name in EPOCHS}
        super().__init__()

    def controls(self):
        return {
            "function": menu("function", ["AGLU", "APA"], "AGLU", "AGLU(z) = z · APA(z)"),
            "initial": menu("20 initial draws of", list(RANGES), "none", "layers as they start; λ ~ U(0, 1)"),
            "kappa": slider("κ", 1.0, -3.0, 10.0, 0.1, "how steep, and which way", readout_format=".1f"),
            "lam": log_slider("λ", 1.0, -4, 2, "1: sigmoid and SiLU, towards 0: Gumbel", readout_format=".2g"),
            "wrong": box("show Eq. 6 beside ∂/∂λ", False, "the derivative that the supplement prints"),
        }

    @staticmethod
    def draws(initial: str, count: int = 20):
        """κ and λ, each (count,), as `count` layers would start; None for "none"."""
        if RANGES[initial] is None:
            return None
        generator = torch.Generator().manual_seed(0)
        kappa = torch.empty(count, dtype=torch.float64).uniform_(*RANGES[initial], generator=generator)
        return kappa, torch.empty(count, dtype=torch.float64).uniform_(1e-4, 1, generator=generator)

    def accuracy(self, function: str, kappa: float, lam: float):
        """Test accuracy, in percent, of the network of the map whose (κ, λ) is nearest."""
        kappas, exponents, percent, _ = self._maps[function]
        return percent[np.abs(exponents - np.log10(lam)).argmin(), np.abs(kappas - kappa).argmin()]

    def figure(self, function: str, initial: str, kappa: float, lam: float, wrong: bool):
        title = f"{function} with κ = {kappa:.1f}, λ = {lam:.2g}".replace("-", "−")
        if self._maps:
            accuracy, epochs = self.accuracy(function, kappa, lam), EPOCHS[function]
            title += (
                f"<br>a small network on digits, all activations held near here: {accuracy:.0f} % right after "
                f"{epochs} epoch{'s' if epochs > 1 else ''}"
            )
        ranges = None if RANGES[initial] is None else (RANGES[initial], (0.0, 1.0))
        shown = wrong, self.draws(initial), ranges, self._maps.get(function)
        return plots.activations.apa_panels(kappa, lam, function == "AGLU", title, *shown)


def _map(table, name):
    """(κ (m,), log10 λ (n,), median percentages over seeds (n, m), title) of one function."""
    rows = table[(table["head"] == name) & (table["iteration"] == EPOCHS[name])]
    grid = 100 * rows.pivot_table(index="lam", columns="kappa", values="test_accuracy", aggfunc="median")
    return grid.columns.to_numpy(), np.log10(grid.index.to_numpy()), grid.to_numpy(), "test accuracy, held at (κ, λ)"
