"""An explorer of saved UFM runs: flip through sizes, heads and seeds with no training."""

import ipywidgets as widgets

from . import figures, figures_ufm
from .controls import Explorer, menu


class RunsExplorer(Explorer):
    """The six panels of Figure 2 for one size, some heads, and one seed or the median and range of all.

    history: of `labkit.sweep.load`; its frame has a column size.
    """

    def __init__(self, history):
        self.history = history
        super().__init__()

    def controls(self):
        frame = self.history.frame
        heads = [(figures.STYLES[h][0], h) for h in figures.STYLES if h in set(frame["head"])]
        seeds = sorted(frame["seed"].unique().tolist())
        main = tuple(h for _, h in heads if h in figures.HEADS)
        chosen = menu("heads", heads, main or (heads[0][1],), "several with shift or ctrl", kind=widgets.SelectMultiple)
        chosen.rows = len(heads)
        sizes = sorted(frame["size"].unique(), key=figures_ufm.num_classes)
        return {
            "size": menu("model", sizes, sizes[0], "number of classes"),
            "seed": menu("seed", [("all: median and range", -1), *((str(s), s) for s in seeds)], -1),
            "heads": chosen,
        }

    def figure(self, size, heads, seed):
        shown = self.history.where(size=size, head=heads)
        if seed != -1:
            shown = shown.where(seed=seed)
        C = figures_ufm.num_classes(size)
        counts = shown.frame.groupby("head")["seed"].nunique()
        title = f"{size}: " + (f"seed {seed}" if seed != -1 else f"{counts.min()} seeds" if len(counts) else "")
        if shown.frame.empty:
            title = f"{size}: not run for this choice" if heads else f"{size}: choose a head"
        return figures.ufm_panels(shown, C).update_layout(title=title, legend=dict(y=1.07))
