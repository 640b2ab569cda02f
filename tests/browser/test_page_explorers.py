"""Explorers in JupyterLab: the figures do what the mathematics says when a hand moves the sliders.

One notebook has all of them, each in a cell of its own: its kernel imports torch once, and JupyterLab loads once.
"""

import math

import numpy as np
import pytest
from lab import curve, latency, numbers, points

from labkit import etf

FIRST = """
import numpy as np
import torch
from labkit import widgets
from labkit.studies import layers
from labkit.studies.ufms import many_classes
from labkit.text import corpora
from labkit.text.bigram import Bigram
from labkit.vision.outputs import Outputs

letters = corpora.Characters(text := "the queen and the king are quiet\\n" * 30)
bytes_ = Bigram(np.array(corpora.Bytes().encode(text)), 256)

labels, counts = torch.arange(300) % 5, torch.tensor([200, 90, 40, 12, 5])
logits = 3 * torch.eye(5)[labels] + 2 * torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
none = torch.empty(0)
logits = logits + (counts / counts.sum()).log()
runs = {"one": Outputs(logits, labels, counts, torch.eye(5), none, none.reshape(0, 1, 1), none.long())}
"""
CELLS = {
    "first": FIRST,
    "etf": "widgets.etf.ETFExplorer()",
    "starts": "widgets.networks.StartsExplorer()",
    "ufm": "widgets.ufm.UFMExplorer()",
    "temperature": "widgets.images.TemperatureExplorer()",
    "layers": "widgets.images.LayersExplorer(layers.on_digits(depth=2, epochs=(0, 1, 2, 4)))",
    "prompt": "widgets.language.PromptExplorer(Bigram(letters.array(text), letters.size), letters, 'the⏎', length=20)",
    "quiz": "widgets.language.HellaSwagExplorer(bytes_, corpora.Bytes())",
    "many classes": "widgets.language.ManyClassesExplorer(many_classes.study([4, 5, 8], 4, [0], 10), iterations=300)",
    "reliability": "widgets.longtail.ReliabilityExplorer(runs)",
    "prior": "widgets.longtail.PriorExplorer(runs)",
    "imbalance": "widgets.longtail.ImbalanceExplorer(5, 60)",
}


@pytest.fixture(scope="module")
def notebook(lab, desk):
    lab.write("explorers", *CELLS.values())
    notebook = lab.open(desk, "explorers")
    notebook.run()
    yield notebook
    notebook.close()


@pytest.fixture
def show(notebook, desk, leave):
    """Call with a name: the explorer of that cell."""
    yield lambda name: notebook.explorer_of(list(CELLS).index(name))
    assert notebook.errors() == []
    leave(desk)


def test_etf(show, measured):
    """Unit vectors with all cosines −1/(C−1), wherever they are turned; with noise, no more."""
    explorer = show("etf")
    before = points(explorer.figure(), "class vectors")
    measured("ETF, " + latency(explorer, "turn (degrees)"))
    explorer.drag("turn (degrees)", 0.5)
    angle = numbers(explorer.read_out("turn (degrees)"))[0]
    turn = np.exp(1j * np.radians(angle))

    def is_turned(figure):
        found = points(figure, "class vectors")
        np.testing.assert_allclose(found @ found.T, np.eye(4) * 4 / 3 - 1 / 3, atol=1e-5)
        np.testing.assert_allclose(found[:, 0] + 1j * found[:, 1], turn * (before[:, 0] + 1j * before[:, 1]), atol=1e-5)
        np.testing.assert_allclose(found[:, 2], before[:, 2], atol=1e-5)
        return True

    explorer.wait(is_turned)
    explorer.drag("noise", 1.0)
    explorer.wait(lambda figure: np.ptp(np.linalg.norm(points(figure, "class vectors"), axis=1)) > 0.1)


def test_starts(show):
    """A network trains live from starts drawn from the ranges, stops at a press, and begins anew with another range."""
    explorer = show("starts")
    epoch = lambda figure: int(figure.layout.title.text.split("epoch ")[1].split(" of")[0])
    assert epoch(explorer.figure()) == 0
    explorer.button("train").click()
    figure = explorer.wait(lambda figure: epoch(figure) >= 3, seconds=60)
    explorer.button("pause").click()
    epochs, accuracy = curve(figure, "test accuracy")
    assert epochs.tolist() == list(range(epoch(figure) + 1)) and accuracy[-1] > 60 > 30 > accuracy[0]
    low = explorer.control("κ from … to").locator(".noUi-handle").first
    low.focus()
    for _ in range(3):
        explorer.page.keyboard.press("ArrowLeft")

    def is_new(figure):
        box, _ = curve(figure, "range")
        drawn, _ = curve(figure, "drawn")
        assert epoch(figure) == 0 and box.min() < 0.95 and box.max() == pytest.approx(1.3)
        assert (drawn >= box.min() - 1e-6).all() and (drawn <= box.max() + 1e-6).all() and len(drawn) == 9
        return True

    explorer.wait(is_new)


def losses(figure):
    return curve(figure, "cross entropy")


def test_train_and_pause(show, measured):
    """Training draws as it goes, its loss falls and stays above the bound; paused, nothing moves any more."""
    training, bound = show("ufm"), etf.cross_entropy_bound(10, 5.0)
    training.button("reset").click()
    training.wait(lambda figure: len(losses(figure)[0]) <= 2)
    training.count_drawings()
    training.button("train").click()
    training.wait(lambda figure: losses(figure)[0].max() > 30)
    drawings, seconds = training.drawings()
    paused = training.pause()
    measured(
        f"UFM-10 in training: {drawings / seconds:.1f} drawings a second; the last one {paused:.0f} ms after pause"
    )
    assert paused < 3000  # ten times what is asked for
    steps, loss = losses(training.figure())
    training.page.wait_for_timeout(1000)
    assert losses(training.figure())[0].max() == steps.max()
    assert loss.min() >= bound - 1e-4 and loss[-1] < loss[0] - 0.5
    training.button("train").click()
    further = training.wait(lambda figure: losses(figure)[0].max() > steps.max() + 20)
    assert losses(further)[1][-1] <= loss[-1] + 1e-3
    training.button("reset").click()
    training.wait(lambda figure: len(losses(figure)[0]) <= 2)


def test_temperature(show, measured):
    """The mark of notebook 11's explorer is at the probability that the formula gives."""
    explorer = show("temperature")
    measured("temperature, " + latency(explorer, "temperature τ"))

    def is_there(figure):
        tau = float(explorer.read_out("temperature τ"))
        bound = etf.cross_entropy_bound(1000, tau)
        marks = [trace for trace in figure.data if trace.mode == "markers"]
        np.testing.assert_allclose(
            [(*mark.x, *mark.y) for mark in marks], [(tau, math.exp(-bound)), (tau, bound)], rtol=1e-6
        )
        return True

    for share in (0.3, 0.1):
        explorer.drag("temperature τ", share)
        explorer.wait(is_there)
        assert abs(float(explorer.read_out("temperature τ")) - (0.5 + 29.5 * share)) < 1


def test_layers(show):
    """Notebook 09's explorer of layers and epochs: the line is that of the epoch at which the slider is let go."""
    explorer = show("layers")

    def ends(figure):
        """NC1 of the last layer, divided by what it was before training."""
        now, before = (
            next(t for t in figure.data if t.name == name).y[-1] for name in ("at this epoch", "before training")
        )
        return now / before

    assert ends(explorer.figure()) < 0.5
    explorer.drag("epoch", 0.0)
    explorer.wait(lambda figure: ends(figure) == 1)
    assert explorer.read_out("epoch") == "0"


def test_language(show):
    """A prompt that is typed is gone on with, an answer shows what the model says, and six classes on the sphere lie at
    right angles.
    """
    prompt = show("prompt")
    box = prompt.control("prompt").locator("input")
    box.fill("the q")
    box.press("Enter")
    figure = prompt.wait(lambda figure: "the q" in figure.layout.annotations[-1].text)
    assert figure.layout.yaxis.ticktext[0] == "u" and figure.data[0].x[0] > 0.4
    prompt.drag("characters written", 1.0)
    prompt.wait(lambda figure: "after 20 characters" in figure.layout.title.text)

    quiz = show("quiz")
    assert quiz.figure().data == ()
    quiz.control("your answer").locator("select").select_option("C")
    figure = quiz.wait(lambda figure: "right is B, you said C" in figure.layout.title.text)
    model = figure.layout.title.text.split("the model ")[1][0]
    assert "ABCD"[int(np.argmin(figure.data[0].x))] == model  # the lowest loss

    classes = show("many classes")
    figure = classes.wait(lambda figure: "study: 8 classes in 4 dimensions" in figure.layout.title.text)
    vectors = points(figure, "class vectors")
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.sort(cosines[np.triu_indices(6, 1)]), [-1] * 3 + [0] * 12, atol=0.02)
    classes.drag("C/d", 0.0)
    figure = classes.wait(lambda figure: "study: 4 classes in 4 dimensions" in figure.layout.title.text)
    assert figure.layout.shapes[0].x0 == 1.0


def test_long_tails(show, measured):
    """A temperature moves confidence and not accuracy; τ takes from frequent classes and gives to rare ones; small
    classes of a UFM fold together as the ratio grows.
    """
    reliable = show("reliability")
    first = numbers(reliable.figure().layout.title.text.split("accuracy")[1])  # accuracy, mean confidence
    measured("reliability, " + latency(reliable, "temperature T"))
    reliable.drag("temperature T", 1.0)
    last = reliable.wait(lambda figure: "T = 10.00" in figure.layout.title.text)
    accuracy, confidence = numbers(last.layout.title.text.split("accuracy")[1])
    assert accuracy == first[0] and confidence < first[1] - 20

    prior = show("prior")

    def recalls(figure):
        return np.array(next(trace.y for trace in figure.data if trace.name == "present τ"), float)

    prior.drag("τ", 0.0)
    before = recalls(prior.wait(lambda figure: "τ = 0.00" in figure.layout.title.text))
    prior.drag("τ", 1.0)
    after = recalls(prior.wait(lambda figure: "τ = 2.00" in figure.layout.title.text))
    assert after[0] < before[0] and after[-1] > before[-1]

    fold = show("imbalance")

    def small(figure):
        cosines = np.array(next(trace for trace in figure.data if trace.type == "heatmap").z, float)
        return cosines[-1, -2]

    fold.drag("large / small", 0.0)
    even = small(fold.wait(lambda figure: "classes 1 times" in figure.layout.title.text))
    fold.drag("large / small", 1.0)
    folded = small(fold.wait(lambda figure: "classes 200 times" in figure.layout.title.text))
    assert even == pytest.approx(-0.25, abs=0.05) and folded > even + 0.2
