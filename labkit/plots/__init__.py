"""Figures: tables and tensors in, plotly figures out. One function a figure; `style` has what they share."""

from labkit.plots import activations, calibration, ddn, digits, images, networks, player, report, style, ufm, vectors  # noqa: F401
