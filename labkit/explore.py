"""Interactive figures: a pure function from settings to a figure, and a thin layer of core ipywidgets on top.

The figure is a `labkit.live.LiveFigure`, updated in place: that works in JupyterLab, in Colab and with no browser at all
(tests set a slider's value and see the function run). No `interact` and no `Output`: both hide exceptions.
"""

import math
import time

import ipywidgets as widgets
import torch
from IPython.display import display

from . import etf, figures, influence, metrics, nearest, ufm
from .heads import ImplicitETFHead
from .live import LiveFigure
from .training import History

_WIDE = dict(description_width="150px")


class Explorer:
    """Controls above a figure. A subclass gives `controls()`, a dict of widgets, and `figure(**state)`, a pure function.

    Values can be set from code, `explorer.set(delta=0.1)`, and put back with `reset()`; `state` holds the present ones.
    """

    def __init__(self):
        self.widgets = self.controls()
        self._first = self.state
        self._live = LiveFigure()
        self._quiet = False
        for widget in self.widgets.values():
            widget.observe(self._changed, names="value")
        button = widgets.Button(description="reset", tooltip="back to the first settings")
        button.on_click(lambda _: self.reset())
        self.box = widgets.VBox([*self.widgets.values(), button])

    def controls(self):
        raise NotImplementedError

    def figure(self, **state):
        raise NotImplementedError

    @property
    def state(self):
        return {name: widget.value for name, widget in self.widgets.items()}

    def set(self, **values):
        """Set several controls and redraw once. Raises ValueError for a name that is not a control."""
        if unknown := set(values) - set(self.widgets):
            raise ValueError(f"no control named {', '.join(sorted(unknown))}; there are {', '.join(self.widgets)}")
        self._quiet = True
        try:
            for name, value in values.items():
                self.widgets[name].value = value
        finally:
            self._quiet = False
        self.redraw()

    def reset(self):
        self.set(**self._first)

    def redraw(self):
        self._live.draw(self.figure(**self.state))

    def _changed(self, _):
        if not self._quiet:
            self.redraw()

    def _ipython_display_(self):
        display(self.box)
        self._live = LiveFigure()  # shown again, in another cell: a figure of its own
        self.redraw()


def _slider(kind, label, value, low, high, step, **more):
    return kind(description=label, value=value, min=low, max=high, step=step, style=_WIDE,
                layout=widgets.Layout(width="520px"), **more)


def _log_slider(label, value, low, high, **more):
    """A slider over powers of ten, from 10^low to 10^high."""
    return _slider(widgets.FloatLogSlider, label, value, low, high, 0.1, readout_format=".1e", **more)


def _head_menu():
    options = [(label, name) for name, (label, _, _) in figures.HEADS.items()]
    return widgets.Dropdown(description="head", options=options, value="implicit", style=_WIDE, layout=widgets.Layout(width="520px"))


def _noisy_etf(num_classes, noise, seed, dim=None):
    """Class means (d, C) that are a randomly turned simplex ETF plus noise, centred, at unit Frobenius norm."""
    generator = torch.Generator().manual_seed(seed)
    dim = dim or max(3, num_classes)
    frame = etf.haar_frame(dim, num_classes, generator, dtype=torch.float64)
    means = etf.simplex_etf(num_classes, frame=frame) / math.sqrt(num_classes)
    means = means + noise * torch.randn(dim, num_classes, generator=generator, dtype=torch.float64) / math.sqrt(dim * num_classes)
    means = means - means.mean(-1, keepdim=True)
    return means / torch.linalg.matrix_norm(means)


class ETFExplorer(Explorer):
    """A simplex ETF of 2 to 4 classes in three dimensions: turn it, disturb it, and see which vectors stop being equal."""

    def controls(self):
        return {
            "num_classes": _slider(widgets.IntSlider, "classes C", 4, 2, 4, 1),
            "angle": _slider(widgets.IntSlider, "turn (degrees)", 0, 0, 360, 5),
            "noise": _slider(widgets.FloatSlider, "noise", 0.0, 0.0, 1.0, 0.05),
        }

    @staticmethod
    def vectors(num_classes, angle, noise):
        """(3, C): the ETF, turned about the third axis, with noise of that standard deviation on every coordinate."""
        plane = etf.simplex_etf(num_classes, dim=num_classes - 1, dtype=torch.float64)
        points = torch.zeros(3, num_classes, dtype=torch.float64)
        points[: num_classes - 1] = plane
        a = math.radians(angle)
        turn = torch.tensor([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]], dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        return turn @ points + noise * torch.randn(3, num_classes, generator=generator, dtype=torch.float64)

    def figure(self, num_classes, angle, noise):
        points = self.vectors(num_classes, angle, noise)
        unit = torch.nn.functional.normalize(points, dim=0)
        cosines = (unit.mT @ unit)[*torch.triu_indices(num_classes, num_classes, 1)]
        title = (f"C = {num_classes}: cosines from {cosines.min():.3f} to {cosines.max():.3f}, "
                 f"a simplex ETF has {-1 / (num_classes - 1):.3f}")
        return figures.vectors_3d({"class vectors": points.numpy()}, title=title)


class NearestETFExplorer(Explorer):
    """Class means, U_prox and the nearest simplex ETF together; δ decides which of the two the answer follows."""

    def controls(self):
        return {
            "delta": _log_slider("proximal δ", 1e-3, -6, 3),
            "num_classes": _slider(widgets.IntSlider, "classes C", 4, 2, 10, 1),
            "noise": _slider(widgets.FloatSlider, "noise on the means", 0.5, 0.0, 3.0, 0.1),
            "seed": _slider(widgets.IntSlider, "seed", 0, 0, 20, 1),
        }

    @staticmethod
    def solve(delta, num_classes, noise, seed):
        """Means (d, C), prox ETF (d, C), nearest ETF (d, C) and the distances of the nearest to the other two."""
        means = _noisy_etf(num_classes, noise, seed)
        d = means.shape[0]
        prox = etf.haar_frame(d, num_classes, torch.Generator().manual_seed(1000 + seed), dtype=torch.float64)
        frame = nearest.nearest_etf(means, prox, delta)
        vectors, near = (etf.simplex_etf(num_classes, frame=f) for f in (prox, frame))
        unit = means * math.sqrt(num_classes)  # the scale of unit columns
        return unit, vectors, near, (near - unit).norm().item(), (near - vectors).norm().item()

    def figure(self, delta, num_classes, noise, seed):
        means, prox, near, to_means, to_prox = self.solve(delta, num_classes, noise, seed)
        shown = figures.project_3d(means, prox, near)
        title = f"δ = {delta:.1e}: distance to the means {to_means:.3f}, to the prox ETF {to_prox:.3f}"
        return figures.vectors_3d(dict(zip(("class means", "prox ETF", "nearest ETF"), shown)), title=title)


class CollapseExplorer(Explorer):
    """The features of a small UFM in 3-D at any step of its training, with the class vectors of the head."""

    def __init__(self, spec=ufm.UFM(4, 200, 4), iterations=150, seed=0):
        self.spec, self.seed, self.iterations = spec, seed, iterations
        self._snapshots = {}
        super().__init__()

    def controls(self):
        return {"head": _head_menu(), "iteration": _slider(widgets.IntSlider, "iteration", 0, 0, self.iterations, 1)}

    def snapshots(self, head):
        """One training, kept: for every iteration the features (N, d) on the unit sphere, class vectors (d, C), loss, NC1."""
        if head not in self._snapshots:
            trainer, kept = ufm.Trainer(self.spec, head, [self.seed]), []
            for t in range(self.iterations + 1):
                while trainer.iteration < t:
                    trainer.step()
                present, logits = trainer.present()
                features = present.normalize(trainer.features.detach())[0] / present.temperature
                weight = present.weight.detach().expand(1, -1, -1)[0].mT  # a canonical fixed ETF has no dimension for seeds
                loss = torch.nn.functional.cross_entropy(logits[0], trainer.targets)
                kept.append((features, weight, loss.item(), metrics.nc1(features, trainer.targets).item()))
            self._snapshots[head] = kept
        return self._snapshots[head]

    def figure(self, head, iteration):
        kept = self.snapshots(head)
        features, weight, loss, nc1 = kept[iteration]
        _, points, vectors = figures.project_3d(kept[-1][1], features.mT, weight)
        title = f"iteration {iteration}: cross entropy {loss:.3f}, NC1 {nc1:.2e}"
        return figures.features_3d(points.T, self.spec.targets().numpy(), vectors, title=title, limit=1.1)


class UFMExplorer(Explorer):
    """Train a small UFM at the present settings and see it collapse. Each change trains anew, `iterations` steps."""

    def __init__(self, spec=ufm.UFM_10, iterations=200):
        self.spec, self.iterations = spec, iterations
        super().__init__()

    def controls(self):
        return {
            "head": _head_menu(),
            "temperature": _slider(widgets.FloatSlider, "temperature τ", 5.0, 1.0, 20.0, 0.5, continuous_update=False),
            "delta": _log_slider("proximal δ (implicit)", 1e-3, -6, 3, continuous_update=False),
            "seed": _slider(widgets.IntSlider, "seed", 0, 0, 20, 1, continuous_update=False),
        }

    def history(self, head, temperature, delta, seed):
        return ufm.train_ufm(self.spec, head, self.iterations, [seed], temperature, delta)

    def figure(self, head, temperature, delta, seed):
        history = self.history(head, temperature, delta, seed)
        end = history.final().iloc[0]
        settings = f"τ = {temperature:g}" + (f", δ = {delta:.1e}" if head == "implicit" else "") + f", seed {seed}"
        title = f"{settings}: after {self.iterations} steps cross entropy {end['loss']:.4f}, NC1 {end['nc1']:.1e}"
        figure = figures.ufm_panels(history, self.spec.num_classes, temperature)
        return figure.update_layout(title=title, legend=dict(x=1, xanchor="right"))


def watch_ufm(spec=ufm.UFM_10, heads=("standard", "fixed", "implicit"), iterations=100, seed=0, every=0.3):
    """Train the heads side by side and redraw Figure 2's panels as they go, about each `every` seconds. Returns the History."""
    trainers = [ufm.Trainer(spec, head, [seed]) for head in heads]
    live, drawn = LiveFigure(), -math.inf
    for t in (points := ufm.log_points(iterations)):
        for trainer in trainers:
            while trainer.iteration < t:
                trainer.step()
            trainer.log()
        if time.monotonic() - drawn > every or t == points[-1]:
            history = History.concat(trainer.history() for trainer in trainers)
            live.draw(figures.ufm_panels(history, spec.num_classes))
            drawn = time.monotonic()
    return history


class InfluenceExplorer(Explorer):
    """How large the gradient through the ETF is beside the direct one, for random features of a UFM: before the first step."""

    def controls(self):
        late = dict(continuous_update=False)  # a sweep takes some tenths of a second: not at every pixel of a drag
        return {
            "imbalance": _slider(widgets.FloatLogSlider, "imbalance", 10.0, 0, 2, 0.1, readout_format=".3g", **late),
            "num_samples": _slider(widgets.FloatLogSlider, "samples N", 1000, 1.5, 3, 0.1, readout_format=".0f", **late),
            "dim": _slider(widgets.FloatLogSlider, "dimensions d", 64, 1, 8, 1, base=2, readout_format=".0f", **late),
            "num_classes": _slider(widgets.IntSlider, "classes C", 10, 2, 20, 1, **late),
            "clusters": _slider(widgets.FloatSlider, "classes apart", 1.0, 0.0, 3.0, 0.25, **late),
            "seed": _slider(widgets.IntSlider, "seed", 0, 0, 20, 1, **late),
        }

    @staticmethod
    def spec(imbalance, num_samples, dim, num_classes):
        """The UFM of these settings, its imbalance lowered where that would leave the last class without a sample."""
        n, d = max(num_classes, round(num_samples)), max(num_classes, round(dim))
        while True:
            try:
                return ufm.UFM(num_classes, n, d, imbalance)
            except ValueError:
                imbalance = max(1.0, 0.97 * imbalance)

    @staticmethod
    def measure(spec, clusters, seed):
        """(ratio, tangent share) for random features, each moved by `clusters` times the random centre of its class."""
        generator = torch.Generator().manual_seed(seed)
        centres = torch.randn(spec.num_classes, spec.dim, generator=generator)
        features = torch.randn(spec.num_samples, spec.dim, generator=generator) + clusters * centres[spec.targets()]
        found = influence.influence(ImplicitETFHead(spec.dim, spec.num_classes), features, spec.targets())
        return found.ratio.item(), found.tangent_share.item()

    def figure(self, imbalance, num_samples, dim, num_classes, clusters, seed):
        here = self.spec(imbalance, num_samples, dim, num_classes)
        ratio, share = self.measure(here, clusters, seed)
        specs = [*(self.spec(r, num_samples, dim, num_classes) for r in (1, 3.2, 10, 32, 100)), here]
        specs = sorted({tuple(s.class_sizes().tolist()): s for s in specs}.values(), key=lambda s: s.imbalance)
        curves = zip(*(self.measure(spec, clusters, seed) for spec in specs))
        curves = dict(zip(("‖indirect‖ / ‖direct‖", "tangent share of ∂L/∂U"), curves))
        figure = figures.lines([spec.imbalance for spec in specs], curves, "imbalance: largest class over smallest", "share",
                               log_y=False, marks={"here": here.imbalance})
        sizes = here.class_sizes()
        title = (f"C = {num_classes}, N = {here.num_samples}, d = {here.dim}, classes of {sizes[0]} to {sizes[-1]}: "
                 f"indirect over direct {ratio:.2f}, tangent share {share:.2f}")
        figure.update_traces(mode="lines+markers").update_yaxes(rangemode="tozero")
        return figure.update_layout(title=title, legend=dict(x=0.5, xanchor="center", y=-0.25, yanchor="top"), margin_b=90)
