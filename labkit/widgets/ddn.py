"""The interactive figure of the gradient through the ETF; `labkit.widgets.base` has what all explorers share."""

import torch

from labkit import plots, ufm
from labkit.heads import ImplicitETFHead
from labkit.studies.ufms import ddn
from labkit.widgets.base import Explorer, log_slider, slider


class InfluenceExplorer(Explorer):
    """How large the gradient through the ETF is beside the direct one, for random features of a UFM: before the first
    step.
    """

    def controls(self):
        late = dict(continuous_update=False)  # a sweep takes some tenths of a second: not at every pixel of a drag
        return {
            "imbalance": log_slider(
                "imbalance", 10.0, 0, 2, "largest over smallest class", readout_format=".3g", **late
            ),
            "num_samples": log_slider("samples N", 1000, 1.5, 3, "of all classes", readout_format=".0f", **late),
            "dim": log_slider("dimensions d", 64, 1, 8, "of the features", 1, ".0f", base=2, **late),
            "num_classes": slider("classes C", 10, 2, 20, 1, "how many classes", **late),
            "clusters": slider("classes apart", 1.0, 0.0, 3.0, 0.25, "centres over scatter within a class", **late),
            "seed": slider("seed", 0, 0, 20, 1, "of the random features", **late),
        }

    @staticmethod
    def spec(imbalance: float, num_samples: float, dim: float, num_classes: int) -> ufm.UFM:
        """The UFM of these settings, its imbalance lowered where that would leave the last class without a sample."""
        n, d = max(num_classes, round(num_samples)), max(num_classes, round(dim))
        while True:
            try:
                return ufm.UFM(num_classes, n, d, imbalance)
            except ValueError:
                imbalance = max(1.0, 0.97 * imbalance)

    @staticmethod
    def measure(spec: ufm.UFM, clusters: float, seed: int) -> tuple[float, float]:
        """(ratio, tangent share) for random features, each moved by `clusters` times the random centre of its class."""
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(spec.num_classes, spec.dim, generator=generator)
        features = torch.randn(spec.num_samples, spec.dim, generator=generator) + clusters * centres[spec.targets()]
        found = ddn.influence(ImplicitETFHead(spec.dim, spec.num_classes), features, spec.targets())
        return found.ratio.item(), found.tangent_share.item()

    def figure(self, imbalance: float, num_samples: float, dim: float, num_classes: int, clusters: float, seed: int):
        here = self.spec(imbalance, num_samples, dim, num_classes)
        ratio, share = self.measure(here, clusters, seed)
        specs = [*(self.spec(r, num_samples, dim, num_classes) for r in (1, 3.2, 10, 32, 100)), here]
        specs = sorted({tuple(s.class_sizes().tolist()): s for s in specs}.values(), key=lambda s: s.imbalance)
        curves = zip(*(self.measure(spec, clusters, seed) for spec in specs))
        curves = dict(zip(("‖indirect‖ / ‖direct‖", "tangent share of ∂L/∂U"), curves))
        sizes = here.class_sizes()
        title = (
            f"C = {num_classes}, N = {here.num_samples}, d = {here.dim}, classes of {sizes[0]} to {sizes[-1]}<br>"
            f"indirect over direct {ratio:.2f}, tangent share {share:.2f}"
        )
        marks = {"here": here.imbalance}
        shown = [spec.imbalance for spec in specs], curves, "imbalance: largest class over smallest", "share"
        figure = plots.style.lines(*shown, log_y=False, marks=marks, title=title)
        return figure.update_traces(mode="lines+markers").update_yaxes(rangemode="tozero")
