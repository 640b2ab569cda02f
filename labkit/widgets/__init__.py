"""Controls on top of the figures, for notebooks.

A module is imported when it is first asked for: those for images and networks bring torchvision and timm, which take
longer to import than everything else together, and most notebooks use neither.
"""

import importlib
from types import ModuleType

_MODULES = ("activations", "base", "collapse", "ddn", "etf", "images", "language", "live", "longtail", "networks")
_MODULES += ("training", "ufm")


def __getattr__(name: str) -> ModuleType:
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *_MODULES])
