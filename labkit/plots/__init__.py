"""Figures: tables and tensors in, plotly figures out. One function a figure; `style` has what they share."""

from labkit.plots import (  # noqa: F401
    activations,
    calibration,
    colours,
    ddn,
    digits,
    images,
    language,
    networks,
    player,
    report,
    style,
    ufm,
    vectors,
)
