"""Controls on top of the figures, for notebooks."""

from labkit.widgets import (  # noqa: F401
    activations,
    base,
    collapse,
    ddn,
    etf,
    images,
    language,
    live,
    longtail,
    networks,
    training,
    ufm,
)
