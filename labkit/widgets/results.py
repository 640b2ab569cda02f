"""An explorer of saved UFM runs: flip through sizes, heads and seeds with no training."""

import ipywidgets as widgets

from labkit import plots, ufm
from labkit.heads import MAIN
from labkit.widgets.base import Explorer, menu


class RunsExplorer(Explorer):
    """The six panels of Figure 2 for one size, some heads, and one seed or the median and range of all.

    history: of `labkit.studies.sweep.load`; its frame has a column size.
    """

    def __init__(self, history):
        self.history = history
        super().__init__()

    def controls(self):
        frame = self.history.frame
        heads = [(look.label, head) for head, look in plots.style.looks(frame["head"]).items()]
        seeds = sorted(frame["seed"].unique().tolist())
        main = tuple(h for _, h in heads if h in MAIN)
        chosen = menu("heads", heads, main or (heads[0][1],), "several with shift or ctrl", kind=widgets.SelectMultiple)
        chosen.rows = len(heads)
        sizes = sorted(frame["size"].unique(), key=ufm.classes_of)
        return {
            "size": menu("model", sizes, sizes[0], "number of classes"),
            "seed": menu("seed", [("all: median and range", -1), *((str(s), s) for s in seeds)], -1),
            "heads": chosen,
        }

    def figure(self, size, heads, seed):
        shown = self.history.where(size=size, head=heads)
        if seed != -1:
            shown = shown.where(seed=seed)
        C = ufm.classes_of(size)
        counts = shown.frame.groupby("head")["seed"].nunique()
        title = f"{size}: " + (f"seed {seed}" if seed != -1 else f"{counts.min()} seeds" if len(counts) else "")
        if shown.frame.empty:
            title = f"{size}: not run for this choice" if heads else f"{size}: choose a head"
        return plots.ufm.ufm_panels(shown, C, title=title)
