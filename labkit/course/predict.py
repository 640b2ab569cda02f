"""Predictions: entered and locked before the answer is shown, and then set beside it.

    predict("angle", "Which angle is there between two of four class vectors, in degrees?", [90, 109.5, 120])
    …
    answer("angle", measured, "°")              # You said: 90°.  It is: 109.5°.

Where nothing can be entered, in a run by papermill or nbval, the prediction is left empty and `answer` prints the
measured value alone, so that what a cell prints does not depend on anybody.
Core ipywidgets only (7.7 and later, so Colab too); an exception in `answer` is seen, as no Output widget is used.
"""

import html
import math
import re
from collections.abc import Sequence
from numbers import Number

import ipywidgets as widgets
from IPython.display import display

WIDGET = "application/vnd.jupyter.widget-view+json"
PREDICTIONS = {}  # name -> Prediction of this kernel


class Prediction:
    """One question, its input and its lock.

    name, question: as in `predict`. kind: float, str, or a list of choices. value: what was entered, None before that.
    locked: whether it can no longer be changed. box: the widget that is shown.
    """

    def __init__(self, name: str, question: str, kind: type | Sequence, unit: str = ""):
        self.name, self.question, self.kind, self.unit = name, question, kind, unit
        self.value, self.locked = None, False
        wide = widgets.Layout(width="min(100%, 600px)")
        if isinstance(kind, list):
            self.input = widgets.RadioButtons(options=[str(choice) for choice in kind], value=None, layout=wide)
        elif kind is str:
            self.input = widgets.Textarea(placeholder="a sentence", rows=2, layout=wide)
        else:
            self.input = widgets.Text(placeholder="a number", layout=widgets.Layout(width="160px"))
        self.button = widgets.Button(description="lock it in", icon="lock", layout=widgets.Layout(width="120px"))
        self.button.on_click(lambda _: self.lock())
        self.message = widgets.HTML()
        title = widgets.HTML(f"<b>Predict first.</b> {html.escape(question)}")
        row = widgets.HBox([self.button, self.message])
        after = widgets.Label(unit)
        entry = widgets.HBox([self.input, after]) if unit else self.input
        self.box = widgets.VBox([title, entry, row])

    def bundle(self):
        """What is shown: the widget, and in its place, on a page without a kernel, words that are always the same."""
        view = {"version_major": 2, "version_minor": 0, "model_id": self.box.model_id}
        words = f"Predict first. {self.question} (run this notebook to enter your prediction)"
        return {WIDGET: view, "text/plain": words}

    def enter(self, value: object) -> None:
        """Put a value in, as typing it would; for tests, and for whoever cannot use a mouse."""
        self.input.value = str(value)

    def lock(self):
        """Read what was entered and hold it; a number that cannot be read is asked for again. Returns whether it is
        locked.
        """
        if self.locked:
            return True
        try:
            self.value = self._read()
        except ValueError as error:
            self.message.value = html.escape(str(error))
            return False
        if self.value is None:
            self.message.value = "Enter your prediction first. A guess is worth more than none."
            return False
        self._hold("Locked. Now run on.")
        return True

    def _read(self):
        text = (self.input.value or "").strip()
        if not text:
            return None
        if isinstance(self.kind, list):
            return self.kind[[str(choice) for choice in self.kind].index(text)]
        if self.kind is str:
            return text
        plain = text.replace("−", "-").replace(self.unit or "\0", "").replace("%", "").strip()
        if self.kind is int and set(plain) & set(",."):  # "1,000" may be meant as a thousand, or as one
            raise ValueError(f"a whole number is asked for, without commas and points, not {text!r}")
        if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+", plain):  # "1,000" may be meant as a thousand, or as one
            raise ValueError(f"a number is asked for, without commas between thousands, not {text!r}")
        if "%" in text and self.unit != "%":
            raise ValueError(f"a number is asked for that is no percentage, such as 0.5 for a half, not {text!r}")
        if plain.count(",") == 1 and "." not in plain:  # as half of the world writes it
            plain = plain.replace(",", ".")
        try:
            number = float(plain)
        except ValueError:
            raise ValueError(f"a number is asked for, not {text!r}") from None
        if not math.isfinite(number):
            raise ValueError(f"a number is asked for, not {text!r}")
        return int(number) if self.kind is int and number == int(number) else number

    def _hold(self, text):
        self.locked = True
        self.input.disabled = self.button.disabled = True
        self.message.value = text


def predict(name: str, question: str, kind: type | Sequence = float, unit: str = "") -> None:
    """Ask for a prediction, and show where to enter it.

    name: what `answer` calls it. question: plain text. kind: float or int for a number, str for a sentence, or a list
    of choices. unit: written behind the number, "°". A prediction that is locked stays so when the cell is run again.

    Raises TypeError for a kind that is none of these.

    >>> predict("how-many", "After how many steps?", int)  # doctest: +ELLIPSIS
    {...}
    >>> PREDICTIONS["how-many"].enter("1O"), PREDICTIONS["how-many"].lock()
    (None, False)
    """
    kind = list(kind) if isinstance(kind, (list, tuple, range)) else kind
    if kind not in (float, int, str) and not (isinstance(kind, list) and len(kind) > 1):
        raise TypeError(f"kind must be float, int, str or a list of two or more choices, got {kind!r}")
    before = PREDICTIONS.get(name)
    same = before is not None and (before.question, before.kind) == (question, kind)
    if not same:
        PREDICTIONS[name] = Prediction(name, question, kind, unit)
    display(PREDICTIONS[name].bundle(), raw=True)


def answer(name: str, measured: object, unit: str = "", digits: int = 4, comment: str = "") -> None:
    """Print what was predicted beside what was measured, and lock the prediction for good.

    measured: a number (printed to so many digits), a choice or a sentence. comment: a line to print after it.
    What was typed and not locked counts. A name that was never asked for, and an empty prediction, are no errors.

    >>> answer("never-asked", 109.4712, "°")
    No prediction was entered. It is: 109.5°.
    """
    shown = _text(measured, digits, unit)
    prediction = PREDICTIONS.get(name)
    said = None
    if prediction is not None:
        said = prediction.value if prediction.lock() else None
        if not prediction.locked:
            prediction._hold("The answer has been shown.")
    if said is None:
        print(f"No prediction was entered. It is: {shown}.")
    else:
        print(f"You said: {_text(said, digits, unit)}.  It is: {shown}.{_verdict(said, measured, prediction.kind)}")
    if comment:
        print(comment)


def _text(value, digits, unit):
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, Number) and not isinstance(value, (bool, complex)):
        return f"{value:.{digits}g}{unit}" if isinstance(value, float) else f"{value}{unit}"
    return str(value).strip().rstrip(".") + (unit if unit and not str(value).endswith(unit) else "")


def _verdict(said, measured, kind):
    """How near a prediction was; nothing for a sentence, which nobody but its author can judge."""
    if kind is str:
        return ""
    try:
        said, measured = float(said), float(measured)
    except (TypeError, ValueError):
        return "  Right." if str(said) == str(measured) else "  Not this time."
    if isinstance(kind, list):
        numbers = [float(choice) for choice in kind]
        nearest = min(numbers, key=lambda choice: abs(choice - measured))
        return "  Right." if said == nearest else "  Not this time."
    if math.isclose(said, measured, rel_tol=0.05, abs_tol=1e-12):
        return "  Well predicted."
    if said * measured > 0 and not 0.5 <= said / measured <= 2:
        factor = max(said / measured, measured / said)
        return f"  A factor {factor:.2g} apart."
    return f"  {abs(said - measured):.3g} apart."
