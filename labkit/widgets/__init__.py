"""Controls on top of the figures, for notebooks."""

from labkit.widgets import activations, base, collapse, ddn, digits, etf, images, language, live, networks, results, ufm  # noqa: F401
