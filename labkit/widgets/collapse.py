"""The interactive figure that the course opens with: a few classes collapse on a sphere."""

import math
from collections.abc import Iterable

import ipywidgets as widgets
import torch
import torch.nn.functional as F
from plotly.graph_objects import Figure

from labkit import etf, plots, ufm
from labkit.plots.player import play
from labkit.widgets.base import Explorer, menu, slider


class CollapseExplorer(Explorer):
    """Free features in three dimensions and the class vectors of a head, from the first step of training to the last.

    per_class: so many features of each class. head, gain: as in `ufm.train_ufm`. iterations: where training ends; the
    steps that can be shown lie evenly on a logarithmic axis. Nothing is projected: the figure holds all that there is.
    """

    def __init__(
        self, per_class: int = 50, head: str = "standard", gain: float = 2.0, iterations: int = 1000, seed: int = 0
    ):
        self.per_class, self.head, self.gain, self.seed = per_class, head, gain, seed
        self.steps = ufm.log_points(iterations)
        self._films = {}
        super().__init__()

    def controls(self):
        late = dict(continuous_update=False)
        return {
            "num_classes": slider("classes C", 4, 3, 4, 1, "three end in a plane, four fill the space", **late),
            "seed": slider("seed", self.seed, 0, max(20, self.seed), 1, "of the features to start from", **late),
            "step": menu("step", self.steps, 0, "of training, on a logarithmic axis", widgets.SelectionSlider),
        }

    @torch.no_grad()
    def states(self, num_classes: int = 4, seed: int = 0) -> dict[int, dict]:
        """One training, kept: {step: dict} with the features (N, 3) on the unit sphere, the unit class vectors (C, 3),
        the angles in degrees of all pairs of these, the cross entropy, and how many features are classified wrongly.

        The axes are turned so that the class vectors end where `etf.ring` has them, the same for every seed.
        """
        if (num_classes, seed) not in self._films:
            trainer = ufm.Trainer(
                ufm.UFM(num_classes, num_classes * self.per_class, 3), self.head, [seed], gain=self.gain
            )
            film = {}
            for step in self.steps:
                while trainer.iteration < step:
                    with torch.enable_grad():
                        trainer.step()
                film[step] = self._state(trainer)
            goal = F.pad(etf.ring(num_classes), (0, 0, 0, max(0, 4 - num_classes)))[:3]
            left, _, right = torch.linalg.svd(goal @ film[self.steps[-1]]["vectors"])
            for state in film.values():
                for name in ("features", "vectors"):
                    state[name] = state[name] @ (left @ right).mT
            self._films[num_classes, seed] = film
        return self._films[num_classes, seed]

    @staticmethod
    def _state(trainer):
        head, logits = trainer.present()
        features = head.normalize(trainer.features)[0].double() / head.temperature
        C = trainer.spec.num_classes
        vectors = F.normalize(head.weight.expand(1, C, 3)[0].double(), dim=-1)
        cosines = (vectors @ vectors.mT)[*torch.triu_indices(C, C, 1)]
        return dict(
            features=features,
            vectors=vectors,
            angles=torch.rad2deg(torch.acos(cosines.clamp(-1, 1))),
            loss=F.cross_entropy(logits[0].double(), trainer.targets).item(),
            mistakes=int((logits[0].argmax(-1) != trainer.targets).sum()),
            targets=trainer.targets,
        )

    def film(self, num_classes: int = 4, seed: int | None = None, height: int = 330) -> Figure:
        """All steps as a figure that plays with no Python; angles and mistakes, to be guessed, are left out."""
        film = self.states(num_classes, self.seed if seed is None else seed)
        draw = plots.vectors.collapse_3d
        figures = [draw(*self._drawn(state), height=height, title=_title(t, state)) for t, state in film.items()]
        return play(figures, [str(step) for step in film], "step")

    def stills(self, steps: Iterable[int], num_classes: int = 4, seed: int | None = None) -> Figure:
        """The sphere at several steps side by side, for paper and for pages without scripts."""
        film = self.states(num_classes, self.seed if seed is None else seed)
        return plots.vectors.collapse_stills({f"step {step}": self._drawn(film[step]) for step in steps})

    @staticmethod
    def _drawn(state):
        return state["features"].mT.numpy(), state["targets"].tolist(), state["vectors"].mT.numpy()

    def figure(self, num_classes: int, seed: int, step: int):
        film = self.states(num_classes, seed)
        state = film[step]
        low, high = state["angles"].min().item(), state["angles"].max().item()
        title = (
            f"{_title(step, state)}, {state['mistakes']} of {len(state['targets'])} features on the wrong side<br>"
            f"angles between class vectors: {_range(low, high)}"
        )
        angles = torch.stack([s["angles"] for s in film.values()])
        ideal = math.degrees(math.acos(-1 / (num_classes - 1)))
        return plots.vectors.collapse_panels(*self._drawn(state), self.steps, angles.numpy(), step, ideal, title)


def _title(step, state):
    return f"step {step}: cross entropy {state['loss']:.3g}"


def _range(low, high):
    return f"{low:.1f}°" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f}° to {high:.1f}°"
