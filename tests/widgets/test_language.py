"""The explorers of language without a browser: every control, and the numbers in their figures."""

import numpy as np
import pytest
import torch

from labkit.studies.ufms import many_classes
from labkit.text import corpora, hellaswag
from labkit.text.bigram import Bigram
from labkit.widgets.language import HellaSwagExplorer, ManyClassesExplorer, PromptExplorer

TEXT = "the king and the queen went to the sea\n" * 20


@pytest.fixture(scope="module")
def prompts():
    vocabulary = corpora.Characters(TEXT)
    return PromptExplorer(Bigram(vocabulary.array(TEXT), vocabulary.size), vocabulary, "the\n", length=30)


def test_the_bars_are_the_probabilities_of_what_comes_next(prompts):
    vocabulary = prompts.vocabulary
    figure = prompts.figure(**prompts.state | {"prompt": "the q", "place": 0})
    bars = figure.data[0]
    expected = prompts.model.table[vocabulary.encode("q")[0]].exp()
    assert np.allclose(bars.x, expected.sort(descending=True).values[:12], atol=1e-6)
    assert figure.layout.yaxis.ticktext[0] == "u" and "the q" in figure.layout.annotations[-1].text


def test_each_place_shows_the_text_so_far_and_what_was_drawn(prompts):
    drawn, probabilities = prompts.written("the⏎", 0.8, 1)
    text = prompts.vocabulary.decode(drawn)
    for place in (0, 1, 17, 30):
        figure = prompts.figure(prompt="the⏎", temperature=0.8, seed=1, place=place)
        wanted = ("the\n" + text[:place]).split("\n")
        assert [row.strip() for row in figure.layout.annotations[-1].text.split("<br>")] == [
            row.strip() for row in wanted
        ]
        (chosen,) = [k for k, c in enumerate(figure.data[0].marker.color) if c == "#D55E00"]
        assert figure.data[0].x[chosen] == pytest.approx(float(probabilities[place][drawn[place]]), abs=1e-6)


def test_a_character_that_the_model_does_not_know_is_said_and_not_raised(prompts):
    prompts.set(prompt="Ω")
    assert "no 'Ω'" in prompts.present().layout.title.text
    prompts.set(prompt="")
    assert "at least one token" in prompts.present().layout.title.text
    prompts.reset()


@pytest.fixture
def quiz():
    text = corpora.Bytes()
    return HellaSwagExplorer(Bigram(np.array(text.encode(TEXT)), 256), text)


def test_the_model_is_seen_after_the_answer_only_and_the_first_counts(quiz):
    hidden = quiz.present()
    assert not hidden.data and "✓" not in hidden.layout.annotations[-1].text
    quiz.set(answer=3)
    quiz.set(answer=1)  # too late
    shown = quiz.present()
    score = hellaswag.score(quiz.model, quiz.tokenizer, hellaswag.MADE_UP)
    assert np.allclose(shown.data[0].x, score.losses[0] / score.tokens[0], atol=1e-6)
    right, said = hellaswag.MADE_UP.tasks[0].label, "ABCD"[int(score.chosen("mean")[0])]
    assert f"right is {'ABCD'[right]}, you said D, the model {said}" in shown.layout.title.text
    quiz.set(item=1)
    assert quiz.state["answer"] is None and not quiz.present().data
    quiz.set(answer=hellaswag.MADE_UP.tasks[1].label)
    model = int(score.right("mean")) and sum(score.chosen("mean")[:2] == score.labels[:2])
    assert f"you 1 of 2, the model {model}" in quiz.present().layout.title.text
    quiz.set(item=0)
    assert quiz.state["answer"] == 3


def test_an_answer_set_together_with_an_item_is_one_to_that_item(quiz):
    quiz.set(answer=0)
    with pytest.raises(Exception, match="[Ii]nvalid"):
        quiz.set(item=1, answer="E")
    assert quiz.state == {"item": 0, "answer": 0}
    quiz.set(answer=2, item=3)
    assert quiz.state == {"item": 3, "answer": 2} and quiz.answers == {0: 0, 3: 2}
    quiz.set(item=0, answer=1)  # too late there
    assert quiz.state == {"item": 0, "answer": 0} and quiz.answers == {0: 0, 3: 2}


def test_made_up_items_are_tasks_that_the_format_holds(tmp_path):
    lines = []
    for task in hellaswag.MADE_UP.tasks:
        lines += [task.context, str(task.label), *task.endings]
    (tmp_path / "tasks.txt").write_text("\n".join(lines) + "\n")
    assert hellaswag.read(tmp_path / "tasks.txt").tasks == hellaswag.MADE_UP.tasks
    assert {task.label for task in hellaswag.MADE_UP.tasks} == {0, 1, 2, 3}


def test_classes_beyond_dimensions_every_place_of_the_slider():
    study = many_classes.study([2, 4, 5, 8], dim=4, seeds=[0, 1], iterations=20)
    explorer = ManyClassesExplorer(study, each=4, iterations=200)
    assert [explorer.classes(r) for r in (0.5, 1.0, 1.25, 2.0)] == [2, 3, 4, 6]
    for _, ratio in explorer.widgets["ratio"].options:
        figure = explorer.figure(ratio, 0)
        assert figure.layout.shapes[-1].x0 == ratio
        margin = study.where(num_classes=round(ratio * 4)).final()["minimal_margin"].median()
        assert f"minimal margin {margin:.3f}" in figure.layout.title.text
    points, targets, vectors = explorer.live(2.0, 0)
    assert np.allclose(np.linalg.norm(points, axis=0), 1) and len(targets) == points.shape[1] == 24
    cosines = torch.from_numpy(vectors.T @ vectors)
    assert abs(cosines - torch.eye(6)).max() > 0.99  # opposite pairs: an orthoplex
