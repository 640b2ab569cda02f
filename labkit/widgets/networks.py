"""An explorer of what networks learnt: κ and λ by depth, and the activations and gates they make, from saved runs."""

import ipywidgets as widgets

from labkit import plots
from labkit.widgets.base import Explorer, menu


class NetworksExplorer(Explorer):
    """Flip through networks, seeds and epochs of a study and see the layers' κ, λ and curves.

    curves, parameters: the two Histories of `study.run`, or what was saved of them.
    """

    def __init__(self, curves, parameters):
        self.curves, self.parameters = curves, parameters
        super().__init__()

    def controls(self):
        frame = self.curves.frame
        networks = [n for n in plots.networks.LABELS if n in set(frame["head"])]
        if not networks:
            known = ", ".join(plots.networks.LABELS)
            raise ValueError(f"none of the networks is known: {sorted(set(frame['head']))}; known are {known}")
        learnt = [n for n in networks if n in set(self.parameters.frame["head"])]
        names = [(plots.networks.LABELS[n], n) for n in networks]
        kinds = [("activations", "activation"), ("gates of the attention", "gate")]
        epochs, seeds = (sorted(frame[column].unique().tolist()) for column in ("iteration", "seed"))
        return {
            "network": menu("network", names, (learnt or networks)[-1], "which activation, and which gate"),
            "kind": menu("which layers", kinds, "activation", "whose κ, λ and curves"),
            "seed": menu("seed", seeds, seeds[0], "of weights and batches", widgets.SelectionSlider),
            "epoch": menu("epoch", epochs, epochs[-1], "how long trained", widgets.SelectionSlider),
        }

    def numbers(self, network, seed, epoch):
        """The row of the curves for one network, seed and epoch as a dict; empty where that was not run."""
        rows = self.curves.frame.query("head == @network and seed == @seed and iteration == @epoch")
        return rows.iloc[0].to_dict() if len(rows) else {}

    def figure(self, network, kind, seed, epoch):
        row = self.numbers(network, seed, epoch)
        title = f"{plots.networks.LABELS[network]}, seed {seed}, epoch {epoch}: "
        if row:
            title += f"test accuracy {100 * row['test_accuracy']:.1f} %, NC1 {row['test_nc1']:.3f}"
            if row["gate_entropy"] == row["gate_entropy"]:  # not NaN
                title += f", gate entropy {row['gate_entropy']:.3f}"
        else:
            title += "not run"
        return plots.networks.network_panels(self.parameters.frame, network, kind, seed, epoch, title)
