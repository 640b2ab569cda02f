"""labkit: simplex ETFs, the classifier heads built on them, and the models they are studied on.

One idea a module; docs/modules.md has the map. The modules beside this one are the core, which needs no extra.
`labkit.collapse(model, loader)` and `labkit.NeuralCollapse` measure any network; they live in `labkit.report`.
"""

import importlib

__version__ = "0.1.0"

_FROM_REPORT = ("collapse", "NeuralCollapse", "CollapseReport")  # found when they are asked for: torch takes seconds


def __getattr__(name: str):
    if name in _FROM_REPORT:
        return getattr(importlib.import_module("labkit.report"), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_FROM_REPORT])
