"""How far any network has collapsed: `collapse(model, loader)`, and `NeuralCollapse` for features that come in batches.

`measures` says which conventions the measures follow, `capture` how features are taken out of a network.
"""

from labkit.report.any_model import CollapseReport, collapse  # noqa: F401
from labkit.report.online import NeuralCollapse  # noqa: F401
