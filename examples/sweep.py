"""A sweep over heads, δ and seeds of a small unconstrained feature model, kept on disk, and its plot.

    python examples/sweep.py                     needs the extra `notebooks`

Run it again: finished runs are read, not trained.
"""

from labkit.plots import ufm as figures
from labkit.studies.ufms.sweep import sweep
from labkit.ufm import UFM

DELTAS = [1e-3, 1.0]
small = {"spec": [UFM(5, 50, 16)], "seed": range(3), "iterations": [50]}
grid = [small | {"head": ["implicit", "implicit_without_ddn"], "delta": DELTAS}]
history = sweep(grid, "sweep-runs", jobs=1, progress=False)  # for more than a small one jobs=-1, all cores

last = history.final()
print(last.groupby(["head", "delta"])[["loss", "nc1", "nc3"]].median().to_string())
# the medians over seeds, with bars from the smallest to the largest
figure = figures.against(last, "delta", "nc3", x_title="δ", y_title="NC3 after 50 iterations")
figure.write_html("sweep.html")
print("open sweep.html")
