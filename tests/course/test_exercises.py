"""Every solution passes its check, in every form that is meant; every wrong answer is refused, and told why."""

import pytest
from course.bank import RIGHT, WRONG

from labkit.course import exercises as bank
from labkit.course.exercises import checking
from labkit.course.exercises.calls import resolve
from labkit.course.exercises.reasons import numbers

EXERCISES = bank.exercises()


def outcome(attempt, name, capsys, seconds=5):
    bank.check(attempt, name, seconds=seconds)
    return bank.records()[name], capsys.readouterr().out


def test_every_exercise_has_right_answers_and_three_wrong_ones():
    assert set(RIGHT) == set(WRONG) == set(EXERCISES)
    assert all(len(wrong) >= 3 for wrong in WRONG.values())
    assert sum(map(len, WRONG.values())) >= 120


@pytest.mark.parametrize("name", EXERCISES)
def test_right_answers_pass_in_every_form(name, capsys):
    for attempt in RIGHT[name]:
        record, said = outcome(attempt, name, capsys)
        assert record["passed"], f"{attempt}: {said}"


def test_wrong_answers_are_refused_and_most_are_told_why(capsys):
    refused = told = 0
    for name in EXERCISES:
        for k, (attempt, word) in enumerate(WRONG[name]):
            record, said = outcome(attempt, name, capsys, seconds=0.5 if "never" in word else 5)
            assert record["attempted"] and not record["passed"], f"{name}: accepted, though wrong: number {k}"
            assert word in record["reason"], f"{name}, number {k} should be told {word!r}: {said}"
            refused, told = refused + 1, told + bool(record["reason"])
    print(f"{refused} wrong answers refused, {told} of them with their reason")
    assert told >= 0.8 * refused


@pytest.mark.parametrize("name", EXERCISES)
def test_every_known_mistake_is_refused_with_its_own_message(name):
    exercise = EXERCISES[name]
    for mistake, text in exercise.mistakes:
        if exercise.inputs is None:
            status, why, _ = checking._value_verdict(mistake, exercise)
        else:
            cases = exercise.inputs(checking._generator())
            answers = [mistake(*case) for case in checking.copy.deepcopy(cases)]
            status, why, _ = checking._compare(answers, cases, exercise)
        assert (status, why) == (checking.WRONG, text)


@pytest.mark.parametrize("name", EXERCISES)
def test_the_stub_counts_as_not_attempted(name, capsys):
    scope = {}
    exec(EXERCISES[name].stub, scope)
    record, said = outcome(eval(EXERCISES[name].attempt, scope), name, capsys)
    assert not record["attempted"] and said == f"{name}: not attempted yet.\n"


def test_what_gives_answers_away_is_there_under_its_name():
    for name in {name for exercise in EXERCISES.values() for name in exercise.library}:
        assert callable(resolve(name))


def test_a_package_that_does_not_load_refuses_no_right_answer(monkeypatch, capsys):
    def broken(name):
        raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.setattr("labkit.course.exercises.calls.resolve", broken)
    name = "calibration-error"
    assert EXERCISES[name].library and outcome(RIGHT[name][0], name, capsys)[0]["passed"]


def test_an_example_shows_input_right_answer_and_ones_own(capsys):
    _, said = outcome(lambda C, p: 7.0, "sure-enough", capsys)
    assert "for C = 2, p = 0.8" in said and "expected: 0.69315" in said and "yours:    7" in said


def test_check_never_raises_and_leaves_inputs_and_generators_alone(capsys):
    import torch

    for attempt in (
        lambda f, l: 1 / 0,
        lambda f, l: exit(),
        lambda f, l: object(),
        lambda f, l: f.fill_(0),
        object(),
        {},
        [],
    ):
        record, _ = outcome(attempt, "nc1", capsys)
        assert not record["passed"]
    state = torch.get_rng_state()
    outcome(lambda f, l: torch.randn(()), "nc1", capsys)
    assert torch.equal(state, torch.get_rng_state())
    before = bank.records()
    for name in (
        "no such exercise",
        ["nc1"],
        0.25,
        torch.zeros(3),
        lambda f, l: 1.0,
        None,
    ):  # the two exchanged, mostly
        bank.check("nc1", name)
        assert "no exercise called" in capsys.readouterr().out
    assert bank.records() == before


def test_use_goes_on_with_the_students_function_once_it_passed(capsys):
    wrong = lambda t: t / 2
    outcome(wrong, "mean-age", capsys)
    assert bank.use("mean-age") is EXERCISES["mean-age"].solution
    assert "is not right yet" in capsys.readouterr().out
    right = RIGHT["mean-age"][1]
    outcome(right, "mean-age", capsys)
    assert bank.use("mean-age") is right and "your my_age" in capsys.readouterr().out


def test_numbers_refuses_what_is_none():
    for nothing in ("0.5", None, object(), [[1], [2, 3]], 1j):
        with pytest.raises(TypeError):
            numbers(nothing)
