"""What the tests of the explorers share: values over the range of a control, and what a figure may hold."""

import itertools

import ipywidgets
import numpy as np


def positions(widget, count=3):
    """Values over a control's whole range with both ends, `count` of them or, when None, every step; every option of a
    menu.
    """
    if isinstance(widget, ipywidgets.Checkbox):
        return [False, True]
    if hasattr(widget, "options"):
        return [option[1] if isinstance(option, tuple) else option for option in widget.options]
    steps = round((widget.max - widget.min) / widget.step)
    at = range(steps + 1) if count is None else np.linspace(0, steps, count).round().astype(int).tolist()
    values = [widget.min + k * widget.step for k in at]
    if isinstance(widget, ipywidgets.FloatLogSlider):
        return [widget.base**v for v in values]
    return [min(v, widget.max) for v in values]


def another(widget):
    """A value that the control does not have now."""
    return next(v for v in positions(widget) if v != widget.value)


def sweeps(explorer, count=None):
    """The states met when each control in turn goes over its whole range, in every step or in `count`, and the others
    stay.
    """
    for name, widget in explorer.widgets.items():
        for value in positions(widget, count):
            yield {**explorer.state, name: value}


def corners(explorer, **fewer):
    """All combinations of the ends of sliders and the options of menus; fewer: the values to take for some of the
    controls.
    """
    ends = [
        fewer.get(name) or (p if hasattr(w, "options") else [p[0], p[-1]])
        for name, w in explorer.widgets.items()
        for p in [positions(w)]
    ]
    return [dict(zip(explorer.widgets, values)) for values in itertools.product(*ends)]


def check_numbers(figure):
    """Every number of every trace is finite, but for the gaps that part one line of a trace from the next."""
    assert figure.data
    for trace in figure.data:
        for axis in "xyz":
            values = trace[axis] if axis in trace else None
            if values is None or (len(values) == 1 and values[0] is None):  # an entry of the legend
                continue
            values, where = np.asarray(values, float), (trace.type, trace.name, axis)
            if trace.type == "scatter3d" and trace.mode == "lines+markers":
                values = values.reshape(-1, 3)[:, :2]
            elif trace.name == "initial values" and trace.mode == "lines":
                values = values.reshape(20, -1)[:, :-1]
            assert np.isfinite(values).all(), where
        if trace.type == "heatmap":
            assert np.isfinite(np.asarray(trace.z, float)).all()
