"""Controls on top of the figures, for notebooks."""

from labkit.widgets import (  # noqa: F401
    activations,
    base,
    collapse,
    ddn,
    digits,
    etf,
    images,
    live,
    networks,
    results,
    starts,
    training,
    ufm,
)
