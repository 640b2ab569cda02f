"""The interactive figures of the simplex ETF and of the nearest one; `labkit.widgets.base` has what all share."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from labkit import etf, metrics, nearest, plots
from labkit.widgets.base import Explorer, log_slider, slider


class ETFExplorer(Explorer):
    """A simplex ETF: turn it, disturb it, and see which of the cosines between its vectors stop being equal."""

    def controls(self):
        return {
            "num_classes": slider("classes C", 4, 2, 10, 1, "how many class vectors"),
            "angle": slider("turn (degrees)", 0, 0, 360, 5, "turns all vectors about the upright axis"),
            "noise": slider("noise", 0.0, 0.0, 1.0, 0.05, "standard deviation, on every coordinate"),
        }

    @staticmethod
    def vectors(num_classes: int, angle: float, noise: float) -> torch.Tensor:
        """(d, C), d = max(3, C−1): the ETF turned about the third axis, with noise of that deviation on every
        coordinate.
        """
        points = F.pad(etf.ring(num_classes), (0, 0, 0, max(0, 4 - num_classes)))
        a = math.radians(angle)
        turn = torch.eye(len(points), dtype=torch.float64)
        turn[:2, :2] = torch.tensor([[math.cos(a), -math.sin(a)], [math.sin(a), math.cos(a)]], dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        return turn @ points + noise * torch.randn(points.shape, generator=generator, dtype=torch.float64)

    def figure(self, num_classes: int, angle: float, noise: float):
        points = self.vectors(num_classes, angle, noise)
        unit = F.normalize(points, dim=0)
        gram = unit.mT @ unit
        cosines = gram[*torch.triu_indices(num_classes, num_classes, 1)]
        shown = (cosines.min(), cosines.max(), -1 / (num_classes - 1))
        low, high, ideal = (f"{cosine:.3f}".replace("-", "−") for cosine in shown)
        title = f"C = {num_classes}: cosines from {low} to {high}<br>in a simplex ETF all are −1/(C−1) = {ideal}"
        return plots.vectors.etf_panels(points[:3].numpy(), gram.numpy(), title)


class NearestETFExplorer(Explorer):
    """Class means, the ETF of U_prox and the nearest simplex ETF together. δ decides which of the first two the third
    follows.

    The means are a simplex ETF of which one class is dragged away, and on which there may be noise.
    """

    def controls(self):
        return {
            "delta": log_slider("proximal δ", 1e-3, -6, 3, "how strongly the answer is held to U_prox"),
            "num_classes": slider("classes C", 4, 2, 10, 1, "how many classes"),
            "start": slider("U_prox (seed)", 0, 0, 20, 1, "seed of the random frame that the answer is held to"),
            "noise": slider("noise on the means", 0.0, 0.0, 3.0, 0.1, "its norm, that of the clean means being 1"),
            "moved": slider("drag class", 0, 0, 9, 1, "which class mean; the last where there are fewer classes"),
            "far": slider("how far", 1.0, 0.0, 3.0, 0.05, "in lengths of a class vector"),
            "direction": slider("direction (degrees)", 60, 0, 180, 5, "0: outwards; 90: sideways; 180: inwards"),
            "around": slider("around it (degrees)", 0, 0, 360, 5, "turns the direction about the class vector"),
        }

    @staticmethod
    def means(num_classes: int, noise: float, moved: int, far: float, direction: float, around: float) -> torch.Tensor:
        """Centred class means (d, C), d = max(3, C), scaled as an ETF of unit vectors: Frobenius norm √C, or all
        zero.
        """
        clean = F.pad(etf.ring(num_classes), (0, 0, 0, max(3, num_classes) - num_classes + 1))
        c = min(moved, num_classes - 1)
        means = clean.clone()
        means[:3, c] += far * _direction(clean[:3, c], math.radians(direction), math.radians(around))
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randn(means.shape, generator=generator, dtype=torch.float64)
        means = means + noise * drawn * math.sqrt(num_classes / means.numel())
        means = means - means.mean(-1, keepdim=True)
        norm = torch.linalg.matrix_norm(means)
        return means * (math.sqrt(num_classes) / norm) if norm > 1e-9 else torch.zeros_like(means)

    @classmethod
    def solve(cls, delta: float, num_classes: int, start: int, **dragged: Any) -> dict:
        """What the figure shows, as a dict: `means`, `prox` and `near`, (d, C) each, the last two ETFs; the two terms
        of Eq. 7 at the solution, `fit` and `proximal`; `at_prox`, the objective at U_prox; `margins` (C,) of the means;
        and the distances of the solution, `to_means` and `to_prox`.
        """
        means = cls.means(num_classes, **dragged)
        root = math.sqrt(num_classes)
        generator = torch.Generator().manual_seed(1000 + start)
        prox = etf.haar_frame(len(means), num_classes, generator, dtype=torch.float64)
        frame = nearest.nearest_etf(means / root, prox, delta)
        vectors, near = (etf.simplex_etf(num_classes, frame=f) for f in (prox, frame))
        fit, at_prox = (((means - v) / root).square().sum().item() for v in (near, vectors))
        margins = metrics.cosine_margins(near.mT, means.mT, torch.arange(num_classes))
        margins[means.norm(dim=0) < 1e-9] = 0.0  # a mean of zero, but for rounding, has no direction
        return dict(
            means=means,
            prox=vectors,
            near=near,
            fit=fit,
            proximal=delta / 2 * (frame - prox).square().sum().item(),
            at_prox=at_prox,
            margins=margins,
            to_means=(near - means).norm().item(),
            to_prox=(near - vectors).norm().item(),
        )

    def figure(self, **state: Any):
        found = self.solve(**state)
        objective = found["fit"] + found["proximal"]
        title = (
            f"δ = {state['delta']:.1e}: objective {objective:.4g} = {found['fit']:.4g} (fit) + "
            f"{found['proximal']:.2g} (proximal); at U_prox {found['at_prox']:.4g}<br>"
            f"solution: distance {found['to_means']:.3f} to the means, {found['to_prox']:.3f} to the prox ETF; "
            f"smallest margin {found['margins'].min():.3f}".replace("-0.", "−0.").replace("-1.", "−1.")
        )
        names = {"class means": "means", "prox ETF": "prox", "solution": "near"}  # the nearest ETF only where δ → 0
        groups = {name: found[key][:3].numpy() for name, key in names.items()}
        bound = etf.cosine_margin_bound(state["num_classes"])
        return plots.vectors.nearest_panels(groups, found["margins"].numpy(), bound, title)


def _direction(vector, away, around):
    """A unit vector (3,) at the angle `away` from a vector (3,), and turned about it by the angle `around`."""
    own = F.normalize(vector, dim=0)
    upright = torch.eye(3, dtype=own.dtype)[own.abs().argmin()]
    one = F.normalize(torch.linalg.cross(own, upright), dim=0)
    other = torch.linalg.cross(own, one)
    return math.cos(away) * own + math.sin(away) * (math.cos(around) * one + math.sin(around) * other)
