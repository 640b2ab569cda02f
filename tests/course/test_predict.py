"""A prediction is entered, locked, and set beside the answer."""

import sys

import pytest

from labkit.course import answer, predict

module = sys.modules["labkit.course.predict"]


@pytest.fixture(autouse=True)
def shown(monkeypatch):
    monkeypatch.setattr(module, "PREDICTIONS", {})
    boxes = []
    monkeypatch.setattr(module, "display", lambda content, raw: boxes.append(content))
    return boxes


def entered(kind, value, unit=""):
    predict("q", "What comes out?", kind, unit)
    prediction = module.PREDICTIONS["q"]
    prediction.enter(value)
    prediction.button.click()
    return prediction


@pytest.mark.parametrize(
    ("kind", "value", "unit", "measured", "said"),
    [
        (float, "100", "°", 109.4712, "You said: 100°.  It is: 109.5°.  9.47 apart."),
        (float, "109,5°", "°", 109.4712, "You said: 109.5°.  It is: 109.5°.  Well predicted."),
        (float, "−0.25", "", -0.3333, "You said: -0.25.  It is: -0.3333.  0.0833 apart."),
        (int, "10", " steps", 1000, "You said: 10 steps.  It is: 1000 steps.  A factor 1e+02 apart."),
        ([90, 109.5, 120], "109.5", "°", 109.4712, "You said: 109.5°.  It is: 109.5°.  Right."),
        (["fixed", "implicit"], "fixed", "", "implicit", "You said: fixed.  It is: implicit.  Not this time."),
        (str, "It shrinks.", "", "it grows", "You said: It shrinks.  It is: it grows."),
    ],
)
def test_what_was_said_stands_beside_what_is(kind, value, unit, measured, said, capsys):
    prediction = entered(kind, value, unit)
    assert prediction.locked and prediction.input.disabled and prediction.button.disabled
    answer("q", measured, unit)
    assert capsys.readouterr().out == said + "\n"


@pytest.mark.parametrize(
    "kind, value",
    [
        (float, ""),
        (float, "many"),
        (float, "nan"),
        (int, "1,000"),
        (float, "1,000"),
        (float, "12,000,000"),
        (float, "50%"),
        (int, "1.000"),
        (int, "2,5"),
    ],
)
def test_what_is_no_number_is_asked_for_again(kind, value):
    prediction = entered(kind, value)
    assert not prediction.locked and prediction.message.value


def test_nothing_can_be_entered_after_the_answer_and_running_again_changes_nothing(shown, capsys):
    predict("q", "What comes out?", float)
    answer("q", 3.0)
    answer("q", 3.0)
    predict("q", "What comes out?", float)
    assert capsys.readouterr().out == 2 * "No prediction was entered. It is: 3.\n"
    assert (
        shown[0] == shown[1] and "What comes out?" in shown[0]["text/plain"] and module.PREDICTIONS["q"].input.disabled
    )


def test_what_was_typed_and_not_locked_counts(capsys):
    predict("q", "What comes out?", float)
    module.PREDICTIONS["q"].enter(3)
    answer("q", 3.0)
    assert "You said: 3." in capsys.readouterr().out


def test_another_question_under_the_same_name_begins_anew():
    first = entered(float, "1")
    predict("q", "And what now?", float)
    assert module.PREDICTIONS["q"] is not first and not module.PREDICTIONS["q"].locked


def test_a_kind_that_cannot_be_asked_for_is_refused():
    for kind in (dict, ["one"], "number"):
        with pytest.raises(TypeError, match="kind must be"):
            predict("q", "What?", kind)
