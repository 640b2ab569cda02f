"""Made-up results of a study, for tests of the figures and the explorer that read them."""

import numpy as np
import pandas as pd

from labkit.history import History
from labkit.studies.networks import NETWORKS

LAYERS = {"activation": 13, "gate": 6}


def results(networks=tuple(NETWORKS), seeds=(0, 1, 2), epochs=(0, 1, 5)):
    """Curves and parameters as `study.run` gives them, with random measures: a mean in place of a median would show."""
    g = np.random.default_rng(0)
    runs = [(n, s, e) for n in networks for s in seeds for e in epochs]
    curves = pd.DataFrame(runs, columns=["head", "seed", "iteration"])
    measures = ["loss", "accuracy", "nc1", "test_accuracy", "test_nc1", "gate_entropy"]
    curves[measures] = g.uniform(0.01, 1, (len(curves), len(measures)))
    curves.loc[~curves["head"].str.startswith(("se", "apa")), "gate_entropy"] = np.nan
    rows = []
    for network in networks:
        options = NETWORKS[network].values()
        kinds = [kind for kind, word in (("activation", "aglu"), ("gate", "apa")) if word in options]
        rows += [
            (k + 1, f"m{k}", kind, network, s, e)
            for kind in kinds
            for s in seeds
            for e in epochs
            for k in range(LAYERS[kind])
        ]
    parameters = pd.DataFrame(rows, columns=["layer", "name", "kind", "head", "seed", "iteration"])
    parameters["kappa"], parameters["lam"] = g.normal(1, 0.3, len(rows)), g.uniform(0, 1, len(rows))
    return History(curves), History(parameters)
