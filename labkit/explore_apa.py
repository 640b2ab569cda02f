"""The interactive figure of APA and AGLU; see `labkit.explore` for how such a figure is made."""

import ipywidgets as widgets
import torch

from . import figures_apa
from .explore import _WIDE, Explorer, _log_slider, _slider

# The ranges of the supplement's Tables 2, 5 and 6; λ ~ U(0, 1) with all of them.
RANGES = {"none": None, "κ ~ U(0, 1)": (0.0, 1.0), "κ ~ U(−2, 0)": (-2.0, 0.0), "κ ~ U(−3, 0)": (-3.0, 0.0),
          "κ ~ U(−2, 2)": (-2.0, 2.0), "κ ~ U(1, 1.3)": (1.0, 1.3), "κ ~ U(−1, 0)": (-1.0, 0.0)}


class APAExplorer(Explorer):
    """κ and λ by sliders: the function beside familiar ones, its derivatives in z, κ and λ, and where layers start."""

    def controls(self):
        names = dict(style=_WIDE, layout=widgets.Layout(width="520px"))
        return {
            "function": widgets.Dropdown(description="function", options=["AGLU", "APA"], value="AGLU", **names),
            "kappa": _slider(widgets.FloatSlider, "κ", 1.0, -3.0, 10.0, 0.1),
            "lam": _log_slider("λ", 1.0, -4, 2),
            "initial": widgets.Dropdown(description="20 initial draws of", options=list(RANGES), value="none", **names),
            "wrong": widgets.Checkbox(description="show Eq. 6 beside ∂/∂λ", value=False, **names),
        }

    @staticmethod
    def draws(initial, count=20):
        """κ and λ, each (count,), as `count` layers would start; None for "none"."""
        if RANGES[initial] is None:
            return None
        generator = torch.Generator().manual_seed(0)
        kappa = torch.empty(count, dtype=torch.float64).uniform_(*RANGES[initial], generator=generator)
        return kappa, torch.empty(count, dtype=torch.float64).uniform_(1e-4, 1, generator=generator)

    def figure(self, function, kappa, lam, initial, wrong):
        box = None if RANGES[initial] is None else (RANGES[initial], (0.0, 1.0))
        figure = figures_apa.explorer_panels(kappa, lam, function == "AGLU", wrong, self.draws(initial), box)
        return figure.update_layout(title=f"{function} with κ = {kappa:.1f}, λ = {lam:.2g}")
