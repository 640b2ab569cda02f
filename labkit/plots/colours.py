"""Colours and dashes of heads and of activations, and palettes for classes and for what comes in an order."""

import itertools
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from plotly.colors import sample_colorscale, unlabel_rgb

from labkit.heads import VARIANTS

BLUE, VERMILION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # of Okabe and Ito
ORANGE, SKY, BLACK, GREY = "#E69F00", "#56B4E9", "#000000", "#555555"
CLASS_COLOURS = "#CC6677 #332288 #DDCC77 #117733 #88CCEE #882255 #44AA99 #999933 #AA4499 #661100".split()
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")


class Look(NamedTuple):
    """How one curve of many is drawn."""

    label: str
    colour: str
    dash: str = "solid"


ACTIVATIONS = {
    "aglu": Look("AGLU", BLUE),
    "gelu": Look("GELU", VERMILION, "dash"),
    "silu": Look("SiLU", ORANGE, "dashdot"),
    "relu": Look("ReLU", GREY, "dot"),
    "apa": Look("APA", PURPLE, "longdash"),
}
WITH_DDN = {"implicit_with_ddn": Look("implicit, with DDN gradient", GREEN)}  # what a study calls the implicit head
SPARE = "#882255 #999933 #44AA99 #332288 #AA4499 #661100".split()  # for heads that nobody declared


def looks(names: Iterable[str]) -> dict[str, Look]:
    """How each of these heads is drawn: those that are declared first, in their order.

    One that nobody declared is drawn too, under its own name, in the next colour that no declared head has; and so is
    one that is declared without a colour, which is grey.

    >>> list(looks(["mine", "implicit", "standard", "mine"]))
    ['standard', 'implicit', 'mine']
    >>> looks(["mine"])["mine"].label
    'mine'
    """
    declared = {name: Look(v.label, v.colour, v.dash) for name, v in VARIANTS.items()} | WITH_DDN
    names, taken = dict.fromkeys(names), {look.colour for look in declared.values()}
    spare = itertools.cycle(zip((c for c in SPARE if c not in taken), itertools.cycle(DASHES)))
    found = {name: declared.get(name, Look(str(name), GREY)) for name in sorted(names, key=[*declared, *names].index)}
    return {k: Look(look.label, *next(spare)) if look.colour == GREY else look for k, look in found.items()}


def ramp(count: int) -> list[str]:
    """So many colours for things in an order, from dark blue to dark yellow.

    >>> ramp(2)
    ['#00224e', '#bcad6c']
    """
    found = sample_colorscale("Cividis", np.linspace(0, 0.75, count).tolist()) if count > 1 else ["rgb(0,34,78)"]
    return ["#%02x%02x%02x" % tuple(round(c) for c in unlabel_rgb(colour)) for colour in found]


def ordered(labels: Iterable) -> dict:
    """A Look for each label of things in an order, {label: Look}, from `ramp` and `DASHES`."""
    labels = list(labels)
    return {k: Look(str(k), c, d) for k, c, d in zip(labels, ramp(len(labels)), itertools.cycle(DASHES))}


def rgba(colour: str, alpha: float) -> str:
    """A colour "#rrggbb" with an opacity from 0 to 1.

    >>> rgba("#0072B2", 0.5)
    'rgba(0,114,178,0.5)'
    """
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"
