"""What every interactive figure shares: controls above a figure, and a copy of it that plays with no Python.

An explorer is a pure function from settings to a figure with a thin layer of core ipywidgets on top. No `interact` and
no `Output`: both hide exceptions. Works with ipywidgets 7.7 and 8.
"""

import threading
from collections.abc import Callable, Iterable
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from labkit.plots.player import play
from labkit.widgets.live import LiveFigure

_STYLE = dict(description_width="130px")
_LAYOUT = dict(width="402px", margin="2px 8px 2px 0")  # two side by side in JupyterLab on a screen of 1280 pixels
_TIP = "tooltip" if hasattr(widgets.DOMWidget, "tooltip") else "description_tooltip"  # ipywidgets 8, or 7


class Explorer:
    """Controls above a figure. A subclass gives `controls()`, a dict of widgets, and `figure(**state)`, a pure
    function.

    Values can be set from code, `explorer.set(delta=0.1)`, and put back with `reset()`; `state` holds the present ones.
    `player("delta", values)` is a plain figure with a slider of its own, which needs no Python.
    """

    def __init__(self):
        self.widgets = self.controls()
        self._first = self.state
        self._live = LiveFigure()
        self._lock = threading.RLock()  # JupyterLab moves widgets in a thread beside that of the cells
        self._changes, self._drawing, self._quiet = 0, False, False
        for widget in self.widgets.values():
            widget.observe(self._changed, names="value")
        self.buttons = self.commands()
        wrapped = widgets.Layout(display="flex", flex_flow="row wrap")
        self.box = widgets.VBox(
            [widgets.Box([*self.widgets.values()], layout=wrapped), widgets.HBox([*self.buttons.values()])]
        )

    def controls(self):
        raise NotImplementedError

    def figure(self, **state: Any):
        raise NotImplementedError

    def commands(self):
        """The row below the controls, {name: widget}."""
        return {"reset": button("reset", "undo", "back to the first settings", self.reset)}

    def present(self):
        """The figure of the present state."""
        return self.figure(**self.state)

    @property
    def state(self):
        return {name: widget.value for name, widget in self.widgets.items()}

    def set(self, **values: Any):
        """Set several controls and redraw once.

        Raises ValueError for a name that is not a control, for a number outside its range and for a fraction where
        whole numbers are, and what the widget raises for other bad values; then nothing has changed.
        """
        if unknown := set(values) - set(self.widgets):
            raise ValueError(f"no control named {', '.join(sorted(unknown))}; there are {', '.join(self.widgets)}")
        for name, value in values.items():
            _check_range(name, value, self.widgets[name])
        before, self._quiet = self.state, True
        try:
            self._put(values)
        except Exception:
            self._put(before)
            raise
        finally:
            self._quiet = False
        self.redraw()

    def _put(self, values):
        for name, value in values.items():
            self.widgets[name].value = value

    def reset(self):
        self.set(**self._first)

    def redraw(self):
        """Draw the present state. A change in the midst of a drawing is drawn before this returns, and nothing older
        after it.
        """
        self._changes += 1
        with self._lock:
            if self._drawing:  # called from within figure(): the loop below, further up the stack, sees the change
                return
            self._drawing = True
            try:
                drawn = None
                while drawn != self._changes:
                    drawn = self._changes
                    figure = self.present()
                    if drawn == self._changes:
                        self._live.draw(figure)
            finally:
                self._drawing = False

    def player(self, name: str, values: Iterable, start: int = 0, **settings: Any):
        """The figures of several values of one setting as one figure with plotly's own slider.

        start: the index of the value shown first. settings: of the others, where not as they are now.
        Raises ValueError where figures differ in more than numbers (see `play`).
        """
        values = list(values)
        figures = [self.figure(**{**self.state, **settings, name: value}) for value in values]
        label = self.widgets[name].description if name in self.widgets else name
        names = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        return play(figures, names, label, start)

    def _changed(self, _):
        if not self._quiet:
            self.redraw()

    def _ipython_display_(self):
        display(self.box)
        self._live = LiveFigure()  # shown again, in another cell: a figure of its own
        self.redraw()


def _check_range(name, value, widget):
    low, high = getattr(widget, "min", None), getattr(widget, "max", None)
    if low is None:
        return
    if isinstance(widget, widgets.FloatLogSlider):
        low, high = widget.base**low, widget.base**high
    slack = 1e-9 * min(abs(low), high - low)  # 10**-6.0 need not be 1e-6
    ends = value if isinstance(value, tuple) else (value, value)
    if not low - slack <= ends[0] <= ends[1] <= high + slack:
        raise ValueError(f"{name} must be from {low:g} to {high:g}, got {value!r}")
    if isinstance(widget, widgets.IntSlider) and value != int(value):  # the widget would cut it off
        raise ValueError(f"{name} must be a whole number, got {value!r}")


def _looks(label, tip):
    return dict(description=label, style=dict(_STYLE), layout=widgets.Layout(**_LAYOUT), **{_TIP: tip})


def slider(
    label: str,
    value: float,
    low: float,
    high: float,
    step: float,
    tip: str = "",
    kind: type[widgets.Widget] | None = None,
    **more: Any,
):
    """A slider with its value beside it, over whole numbers where `value` is one; with the focus on it the arrow keys
    move it. tip: what it does, under the pointer.

    Raises ValueError for a value outside the range, which ipywidgets would move to its end.
    """
    kind = kind or (widgets.IntSlider if isinstance(value, int) else widgets.FloatSlider)
    made = kind(value=value, min=low, max=high, step=step, **_looks(label, tip), **more)
    _check_range(label, value, made)
    return made


def log_slider(
    label: str,
    value: float,
    low: float,
    high: float,
    tip: str = "",
    step: float = 0.1,
    readout_format: str = ".1e",
    **more: Any,
):
    """A slider over powers of ten, from 10^low to 10^high."""
    return slider(label, value, low, high, step, tip, widgets.FloatLogSlider, readout_format=readout_format, **more)


def range_slider(
    label: str, value: tuple[float, float], low: float, high: float, step: float, tip: str = "", **more: Any
):
    """A slider with two handles; its value is (low, high)."""
    return slider(label, value, low, high, step, tip, widgets.FloatRangeSlider, **more)


def menu(label: str, options: Iterable, value: Any, tip: str = "", kind: type[widgets.Widget] = widgets.Dropdown):
    """A menu of options, values or pairs (label, value); or a slider over them, with kind=SelectionSlider."""
    return kind(options=options, value=value, **_looks(label, tip))


def text_box(label: str, value: str, tip: str = ""):
    """A line of text, read when Enter is pressed or the focus leaves it."""
    return widgets.Text(value=value, continuous_update=False, **_looks(label, tip))


def box(label: str, value: bool, tip: str = ""):
    return widgets.Checkbox(value=value, **_looks(label, tip))


def button(label: str, icon: str, tip: str, action: Callable[[], Any]):
    made = widgets.Button(description=label, icon=icon, tooltip=tip, layout=widgets.Layout(width="110px"))
    made.on_click(lambda _: action())
    return made
