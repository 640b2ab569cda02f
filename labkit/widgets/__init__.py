"""Controls on top of the figures, for notebooks."""

from labkit.widgets import activations, base, collapse, ddn, digits, etf, images, live, longtail, networks, results, ufm  # noqa: F401
