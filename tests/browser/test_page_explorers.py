"""The notebooks in JupyterLab: all cells run, and the figures do what the mathematics says when a hand moves the
sliders.
"""

import math
import re

import numpy as np
import pytest
from lab import Explorer, latency
from scipy.special import expit

from labkit import etf


@pytest.fixture
def run(lab, tab, measured):
    """Call with a notebook's name: it is opened and run, and its kernel ends with the test."""
    opened = []

    def open_and_run(name):
        opened.append(lab.open(tab, name))
        measured(f"{name}: all cells in {opened[-1].run():.0f} s")
        return opened[-1]

    yield open_and_run
    for notebook in opened:
        assert notebook.errors() == []
        notebook.close()


def numbers(text):
    return [float(x) for x in re.findall(r"-?\d+\.?\d*(?:e[+-]?\d+)?", text.replace("−", "-"))]


def points(figure, name):
    """(C, 3): the ends of the arrows of one group, as drawn: what is neither a gap nor the origin."""
    traces = [trace for trace in figure.data if (trace.name or "").split(", class")[0] == name]
    found = np.concatenate([np.array([trace.x, trace.y, trace.z], float).T for trace in traces])
    return found[np.isfinite(found).all(1) & (found != 0).any(1)]


def curve(figure, name):
    """x and y of the first line of that name."""
    trace = next(trace for trace in figure.data if trace.name == name)
    return np.array(trace.x, float), np.array(trace.y, float)


def test_etf(run, lab, measured):
    """Unit vectors with all cosines −1/(C−1), wherever they are turned; with noise, no more."""
    lab.write("etf", "from labkit import widgets", "widgets.etf.ETFExplorer()")
    explorer = run("etf").explorer("turn (degrees)")
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


def test_nearest_etf(run, measured):
    """A small δ gives the ETF nearest to the means, a large one the prox ETF; both are what the figure says they
    are.
    """
    explorer = run("03-nearest-simplex-etf").explorer("proximal δ")

    def to_prox(figure):
        return np.abs(points(figure, "solution") - points(figure, "prox ETF")).max()

    explorer.drag("proximal δ", 1.0)
    assert numbers(explorer.read_out("proximal δ")) == [1e3]
    explorer.wait(lambda figure: to_prox(figure) < 0.01)
    explorer.drag("proximal δ", 0.0)
    assert numbers(explorer.read_out("proximal δ")) == [1e-6]
    figure = explorer.wait(lambda figure: to_prox(figure) > 0.1)
    near, means = points(figure, "solution"), points(figure, "class means")
    np.testing.assert_allclose(near @ near.T, np.eye(4) * 4 / 3 - 1 / 3, atol=1e-3)  # unit vectors, cosines −1/3
    left, _, right = np.linalg.svd(means - means.mean(0), full_matrices=False)
    polar = math.sqrt(4 / 3) * left @ right  # no other ETF is nearer
    np.testing.assert_allclose(near, polar, atol=1e-3)
    fit = numbers(figure.layout.title.text)[2]  # after δ and the objective
    assert fit == pytest.approx(((means - near) ** 2).sum() / 4, rel=0.01)
    measured("nearest ETF, " + latency(explorer, "proximal δ"))
    explorer.drag("classes C", 1.0)
    explorer.wait(lambda figure: len(points(figure, "solution")) == 10)
    measured("nearest ETF of ten classes, " + latency(explorer, "proximal δ"))


def test_apa(run, measured):
    """The curve is AGLU(z; κ, λ) = z (1 + λ e^(−κz))^(−1/λ) at the sliders' κ and λ."""
    explorer = run("07-apa-and-aglu").explorer("κ")

    def is_aglu(figure):
        kappa, lam = (numbers(explorer.read_out(label))[0] for label in ("κ", "λ"))
        z, y = curve(figure, "AGLU")
        np.testing.assert_allclose(
            y, z * (1 + lam * np.exp(-kappa * z)) ** (-1 / lam), rtol=0.05, atol=0.02
        )  # λ: 2 digits
        return True

    explorer.wait(is_aglu)
    explorer.press("κ", "ArrowRight")
    assert numbers(explorer.read_out("κ"))[0] != 1.0
    explorer.wait(is_aglu)
    explorer.drag("λ", 0.6)
    explorer.wait(is_aglu)
    explorer.button("reset").click()
    figure = explorer.wait(lambda figure: "κ = 1.0, λ = 1" in figure.layout.title.text)
    z, y = curve(figure, "AGLU")
    np.testing.assert_allclose(y, z * expit(z), atol=1e-6)  # SiLU
    measured("APA, " + latency(explorer, "κ"))


def test_starts(run, lab):
    """A network trains live from starts drawn from the ranges, stops at a press, and begins anew with another range."""
    lab.write("starts", "from labkit import widgets", "widgets.networks.StartsExplorer()")
    explorer = run("starts").explorer("learning rate")
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


def test_start_here(run):
    """The picture of a collapse: at its end the class vectors are the simplex ETF of four classes."""
    explorer = run("00-start-here").explorer("step")
    explorer.drag("step", 0.0)
    start = numbers(explorer.wait(lambda figure: "step 0:" in figure.layout.title.text).layout.title.text)
    explorer.drag("step", 1.0)
    assert explorer.read_out("step") == "1000"
    figure = explorer.wait(lambda figure: "step 1000:" in figure.layout.title.text)
    vectors = points(figure, "class vectors")
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(4) * 4 / 3 - 1 / 3, atol=0.02)
    end = numbers(figure.layout.title.text)
    assert etf.cross_entropy_bound(4, 5.0) - 1e-3 <= end[1] < start[1]
    assert end[2:4] == [0, 200] and end[4] == pytest.approx(math.degrees(math.acos(-1 / 3)), abs=0.1)


def test_the_first_screen_is_the_figure_and_it_plays(lab, tab):
    """Opened and not run, and told to trust nothing: the sphere and its slider are seen without scrolling, and move."""
    notebook = lab.open(tab, "00-start-here")
    explorer = Explorer(tab.page.locator(".jp-Cell", has=tab.page.locator(".js-plotly-plot")).first)
    tab.page.wait_for_timeout(500)
    box = explorer.plot.bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] <= 775
    touch = explorer.plot.query_selector(".slider-rail-touch-rect").bounding_box()
    tab.page.mouse.click(touch["x"] + 0.999 * touch["width"], touch["y"] + touch["height"] / 2)
    explorer.wait(lambda figure: "step 1000:" in figure.layout.title.text)
    notebook.close()


@pytest.fixture
def training(run):
    """The explorer of notebook 04."""
    return run("04-ufm-10").explorer("temperature τ")


def losses(figure):
    return curve(figure, "cross entropy")


def test_train_and_pause(training, measured):
    """Training draws as it goes, its loss falls and stays above the bound; paused, nothing moves any more."""
    bound = etf.cross_entropy_bound(10, 5.0)
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


def test_temperature(run, lab, measured):
    """The mark of notebook 11's explorer is at the probability that the formula gives."""
    lab.write("temperature", "from labkit.widgets.images import TemperatureExplorer", "TemperatureExplorer()")
    explorer = run("temperature").explorer("temperature τ")
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


def test_layers(run, lab):
    """Notebook 09's explorer of layers and epochs: the line is that of the epoch at which the slider is let go."""
    made = "from labkit.studies import layers\ntable = layers.on_digits(depth=2, epochs=(0, 1, 2, 4))"
    lab.write("layers", made, "from labkit.widgets.images import LayersExplorer", "LayersExplorer(table)")
    explorer = run("layers").explorer("epoch")

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


def test_language(run, lab):
    """A prompt that is typed is gone on with, an answer shows what the model says, and six classes on the sphere lie at
    right angles.
    """
    lab.write(
        "language",
        "from labkit.text import corpora\n"
        "from labkit.text.bigram import Bigram\n"
        "from labkit.studies.ufms import many_classes\n"
        "from labkit.widgets.language import HellaSwagExplorer, ManyClassesExplorer, PromptExplorer\n"
        "import numpy as np\n"
        "text = 'the queen and the king are quiet\\n' * 30\n"
        "letters = corpora.Characters(text)\n"
        "bytes_ = Bigram(np.array(corpora.Bytes().encode(text)), 256)",
        "PromptExplorer(Bigram(letters.array(text), letters.size), letters, 'the⏎', length=20)",
        "HellaSwagExplorer(bytes_, corpora.Bytes())",
        "ManyClassesExplorer(many_classes.study([4, 5, 8], 4, [0], 10), iterations=300)",
    )
    notebook = run("language")
    prompt = notebook.explorer("characters written")
    box = prompt.control("prompt").locator("input")
    box.fill("the q")
    box.press("Enter")
    figure = prompt.wait(lambda figure: "the q" in figure.layout.annotations[-1].text)
    assert figure.layout.yaxis.ticktext[0] == "u" and figure.data[0].x[0] > 0.4
    prompt.drag("characters written", 1.0)
    prompt.wait(lambda figure: "after 20 characters" in figure.layout.title.text)

    quiz = notebook.explorer("your answer")
    assert quiz.figure().data == ()
    quiz.control("your answer").locator("select").select_option("C")
    figure = quiz.wait(lambda figure: "right is B, you said C" in figure.layout.title.text)
    model = figure.layout.title.text.split("the model ")[1][0]
    assert "ABCD"[int(np.argmin(figure.data[0].x))] == model  # the lowest loss

    classes = notebook.explorer("C/d")
    figure = classes.wait(lambda figure: "study: 8 classes in 4 dimensions" in figure.layout.title.text)
    vectors = points(figure, "class vectors")
    cosines = vectors @ vectors.T
    np.testing.assert_allclose(np.sort(cosines[np.triu_indices(6, 1)]), [-1] * 3 + [0] * 12, atol=0.02)
    classes.drag("C/d", 0.0)
    figure = classes.wait(lambda figure: "study: 4 classes in 4 dimensions" in figure.layout.title.text)
    assert figure.layout.shapes[0].x0 == 1.0


OUTPUTS = """
import torch
from labkit import widgets
from labkit.vision.outputs import Outputs

labels, counts = torch.arange(300) % 5, torch.tensor([200, 90, 40, 12, 5])
logits = 3 * torch.eye(5)[labels] + 2 * torch.randn(300, 5, generator=torch.Generator().manual_seed(0))
none = torch.empty(0)
logits = logits + (counts / counts.sum()).log()
runs = {"one": Outputs(logits, labels, counts, torch.eye(5), none, none.reshape(0, 1, 1), none.long())}
"""


def test_long_tails(run, lab, measured):
    """A temperature moves confidence and not accuracy; τ takes from frequent classes and gives to rare ones; small
    classes of a UFM fold together as the ratio grows.
    """
    shows = ("ReliabilityExplorer(runs)", "PriorExplorer(runs)", "ImbalanceExplorer(5, 60)")
    lab.write("long-tails", OUTPUTS, *(f"widgets.longtail.{show}" for show in shows))
    notebook = run("long-tails")

    reliable = notebook.explorer("temperature T")
    first = numbers(reliable.figure().layout.title.text.split("accuracy")[1])  # accuracy, mean confidence
    measured("reliability, " + latency(reliable, "temperature T"))
    reliable.drag("temperature T", 1.0)
    last = reliable.wait(lambda figure: "T = 10.00" in figure.layout.title.text)
    accuracy, confidence = numbers(last.layout.title.text.split("accuracy")[1])
    assert accuracy == first[0] and confidence < first[1] - 20

    prior = notebook.explorer("constant")

    def recalls(figure):
        return np.array(next(trace.y for trace in figure.data if trace.name == "present τ"), float)

    prior.drag("τ", 0.0)
    before = recalls(prior.wait(lambda figure: "τ = 0.00" in figure.layout.title.text))
    prior.drag("τ", 1.0)
    after = recalls(prior.wait(lambda figure: "τ = 2.00" in figure.layout.title.text))
    assert after[0] < before[0] and after[-1] > before[-1]

    fold = notebook.explorer("small classes")

    def small(figure):
        cosines = np.array(next(trace for trace in figure.data if trace.type == "heatmap").z, float)
        return cosines[-1, -2]

    fold.drag("large / small", 0.0)
    even = small(fold.wait(lambda figure: "classes 1 times" in figure.layout.title.text))
    fold.drag("large / small", 1.0)
    folded = small(fold.wait(lambda figure: "classes 200 times" in figure.layout.title.text))
    assert even == pytest.approx(-0.25, abs=0.05) and folded > even + 0.2
