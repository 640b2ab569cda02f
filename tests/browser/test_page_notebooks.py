"""Notebooks in JupyterLab: all cells run, and the figures do what the mathematics says when a hand moves the sliders."""

import math

import numpy as np
import pytest
from lab import Explorer, curve, latency, numbers, points
from scipy.special import expit

from labkit import etf


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
    # not one on the way there: the title begins with δ
    figure = explorer.wait(lambda figure: numbers(figure.layout.title.text)[0] < 2e-6 and to_prox(figure) > 0.1)
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


def test_ufm_10(run, lab):
    """With the parameters of a short run. The explorer, which its last cell but a few trains, stands at the end of it."""
    lab.shorten("04-ufm-10")
    explorer = run("04-ufm-10").explorer("temperature τ")
    tau = numbers(explorer.read_out("temperature τ"))[0]
    steps, loss = curve(explorer.figure(), "cross entropy")
    assert steps.max() == 1 + 150 and loss[-1] < loss[0] and loss.min() >= etf.cross_entropy_bound(5, tau) - 1e-4


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
