"""The explorers of UFMs in training, without a browser."""

import asyncio
import itertools
import math

import numpy as np
import pytest
from sweeps import check_numbers, positions

from labkit import etf, plots, ufm, widgets
from labkit.heads import HEADS
from labkit.history import History
from labkit.widgets.live import bundle

pytestmark = [pytest.mark.usefixtures("page"), pytest.mark.filterwarnings("error")]
SMALL = ufm.UFM(3, 30, 8)
SETTINGS = dict(head="implicit", num_classes=3, temperature=5.0, delta=1e-3, alpha="2/(t+1)", gain=10.0, seed=0)


@pytest.fixture
def explorer():
    return widgets.ufm.UFMExplorer(SMALL, iterations=40)


def step_shown(content):
    """The number of steps in the title of a figure bundle."""
    return int(content["application/vnd.plotly.v1+json"]["layout"]["title"]["text"].split("step ")[1].split(":")[0])


# A run


def test_a_run_is_that_of_train_ufm():
    run = widgets.ufm.Run(SMALL, **{**SETTINGS, "seed": 7, "temperature": 3.0, "delta": 0.1, "gain": 5.0})
    run.advance(20)
    table, margins = run.history()
    assert table["iteration"].tolist() == [t for t in widgets.ufm.LOG if t <= 20] + [20] * (20 not in widgets.ufm.LOG)
    expected = ufm.train_ufm(SMALL, "implicit", 20, [7], 3.0, 5.0, delta=0.1, log_at=table["iteration"].tolist())
    for measure in ("loss", "nc1", "nc3"):
        np.testing.assert_allclose(table[measure], expected.frame[measure], rtol=1e-4)
    np.testing.assert_allclose(margins, expected.margins["margin"], rtol=1e-4)


def test_alpha_reaches_the_head():
    run = widgets.ufm.Run(SMALL, **{**SETTINGS, "alpha": 0.3})
    assert run.trainer.settings["alpha"] == 0.3
    assert widgets.ufm.Run(SMALL, **SETTINGS).trainer.settings["alpha"] is None


@pytest.mark.parametrize("stops", [(33,), (1, 2, 30, 33), (7, 7, 0, 33)])
def test_a_run_does_not_depend_on_where_it_was_stopped(stops, explorer):
    run = widgets.ufm.Run(SMALL, **SETTINGS)
    for stop in stops:
        run.advance(stop)
        run.history(), run.picture()  # looking moves nothing
    assert run.iteration == 33
    assert explorer.drawn(run).to_json() == explorer.figure(iterations=33, **SETTINGS).to_json()


@pytest.mark.parametrize("head", list(HEADS))
@pytest.mark.parametrize("C", [2, 3, 4, 7])
def test_the_picture_is_a_true_projection(head, C):
    run = widgets.ufm.Run(ufm.UFM(7, 70, 20), **{**SETTINGS, "head": head, "num_classes": C})
    run.advance(30)
    points, targets, vectors = run.picture(each=5)
    assert points.shape == (3, 5 * C) and targets == [c for c in range(C) for _ in range(5)] and vectors.shape == (3, C)
    assert (np.linalg.norm(points, axis=0) <= 1 + 1e-6).all() and (np.linalg.norm(vectors, axis=0) <= 1 + 1e-6).all()
    if C <= 4:  # the picture shows all there is between features and class vectors, but for what all vectors share
        present, _ = run.trainer.present()
        h = present.normalize(run.trainer.features.detach())[0].double().numpy() / 5
        w = present.weight.detach().expand(1, C, 20)[0].double().numpy()
        cosines = h[[70 // C * c + k for c in range(C) for k in range(5)]] @ (w - w.mean(0)).T
        np.testing.assert_allclose(points.T @ (vectors - vectors.mean(1, keepdims=True)), cosines, atol=1e-6)
    if head in ("fixed", "implicit"):
        ring = np.vstack([etf.ring(C)[:3], np.zeros((3, C))])[:3]
        np.testing.assert_allclose(vectors, ring, atol=1e-5)


# The explorer


@pytest.mark.parametrize("head", list(HEADS))
def test_the_ends_of_all_sliders_together(head):
    explorer = widgets.ufm.UFMExplorer(ufm.UFM(10, 40, 12), iterations=12)
    fixed = {} if head == "implicit" else dict(delta=[1e-3], alpha=["2/(t+1)"])
    ends = {
        name: fixed.get(name) or [p[0], p[-1]]
        for name in ("num_classes", "temperature", "gain", "delta", "alpha")
        for p in [positions(explorer.widgets[name])]
    }
    for values in itertools.product(*ends.values()):
        state = {**explorer.state, "head": head, **dict(zip(ends, values))}
        figure, run = explorer.figure(**state), explorer._kept
        check_numbers(figure)
        table, margins = run.history()
        C = state["num_classes"]
        assert (table["loss"] >= etf.cross_entropy_bound(C, state["temperature"]) * (1 - 1e-5)).all()
        assert (table[["nc1", "nc3"]] >= 0).all(axis=None) and margins.max() <= etf.cosine_margin_bound(C) + 1e-5
        assert figure.layout.shapes[0].y0 == pytest.approx(etf.cross_entropy_bound(C, state["temperature"]))
        assert figure.layout.shapes[1].y0 == pytest.approx(etf.cosine_margin_bound(C))


def test_all_steps_of_a_training_are_drawn_on_the_same_axes(explorer):
    # Failed before: each step had axes of its own, so that a recording could not be compared with the end
    figures = [
        explorer.figure(**{**SETTINGS, "head": head, "iterations": 40}, iteration=t).layout
        for head in HEADS
        for t in (0, 5, 40)
    ]
    for axis in ("xaxis", "yaxis", "yaxis3", "yaxis4"):
        assert len({tuple(layout[axis].range) for layout in figures}) == 1, axis


def test_every_value_of_every_control(explorer):
    for name, widget in explorer.widgets.items():
        for value in positions(widget, 7) if name != "iterations" else [10, 300]:
            check_numbers(explorer.figure(**{**explorer.state, "iterations": 10, name: value}))


def test_it_starts_untrained_and_run_trains_to_the_end(explorer, page):
    explorer.redraw()
    explorer.run()
    assert [step_shown(content) for content in page] == [0, 40]
    assert page[-1] == bundle(explorer.figure(**explorer.state))


def test_a_change_begins_anew(explorer, page):
    explorer.run()
    explorer.widgets["seed"].value = 3
    assert step_shown(page[-1]) == 0
    explorer.run()
    assert page[-1] == bundle(explorer.figure(**{**SETTINGS, "seed": 3, "iterations": 40}))


def test_more_iterations_go_on_and_fewer_begin_anew(explorer, page):
    explorer.run()
    run = explorer.current()
    explorer.set(iterations=60)
    assert explorer.current() is run and step_shown(page[-1]) == 40
    explorer.run()
    assert explorer.current() is run and run.iteration == 60
    explorer.set(iterations=10)
    assert explorer.current() is not run and step_shown(page[-1]) == 0


def test_reset_forgets_the_training(explorer, page):
    first = explorer.state
    explorer.set(seed=4)
    explorer.run()
    explorer.buttons["reset"].click()
    assert explorer.state == first and step_shown(page[-1]) == 0


def test_without_an_event_loop_train_runs_to_the_end(explorer, page):
    explorer.buttons["train"].click()
    assert not explorer.training and step_shown(page[-1]) == 40


# Training while the page stays alive


def live(coroutine):
    asyncio.run(asyncio.wait_for(coroutine, 60))


@pytest.fixture
def hasty(monkeypatch):
    """Training without the time that a page gets to draw."""
    monkeypatch.setattr(widgets.training, "REST", 0.0)
    monkeypatch.setattr(widgets.training, "PACE", 0.0)


@pytest.mark.usefixtures("hasty")
def test_training_draws_on_the_way(explorer, page):
    async def go():
        explorer.buttons["train"].click()
        assert explorer.training and explorer.buttons["train"].disabled and not explorer.buttons["pause"].disabled
        await explorer._task

    live(go())
    steps = [step_shown(content) for content in page]
    assert steps == sorted(set(steps)) and steps[0] == 1 and steps[-1] == 40
    assert len(steps) >= len([t for t in widgets.ufm.LOG if 0 < t <= 40])
    assert page[-1] == bundle(explorer.figure(**explorer.state))
    assert not explorer.training and not explorer.buttons["train"].disabled and explorer.buttons["pause"].disabled
    assert explorer.status.value == "step 40 of 40"


@pytest.mark.usefixtures("hasty")
def test_pause_stops_and_train_goes_on(explorer, page):
    async def go():
        explorer.train()
        while len(page) < 3:
            await asyncio.sleep(0)
        explorer.buttons["pause"].click()
        drawn, step = len(page), explorer.current().iteration
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert (len(page), explorer.current().iteration) == (drawn, step) and 0 < step < 40
        assert not explorer.training and explorer.buttons["pause"].disabled
        explorer.train()
        await explorer._task
        assert step_shown(page[drawn]) > step

    live(go())
    assert page[-1] == bundle(explorer.figure(**explorer.state))


@pytest.mark.usefixtures("hasty")
def test_pause_and_train_at_once_trains_once(explorer, page):
    async def go():
        explorer.train()
        while len(page) < 3:
            await asyncio.sleep(0)
        explorer.pause()
        explorer.train()
        await explorer._task

    live(go())
    steps = [step_shown(content) for content in page]
    assert steps == sorted(set(steps)) and steps[-1] == 40  # two trainings at once would draw steps twice


@pytest.mark.usefixtures("hasty")
def test_changes_during_training_end_on_the_last_settings(explorer, page):
    async def go():
        explorer.train()
        for seed in (1, 2):
            while len(page) < 3 * seed:
                await asyncio.sleep(0)
            explorer.widgets["seed"].value = seed
            assert step_shown(page[-1]) == 0 and "seed" in str(page[-1])
        assert explorer.training
        await explorer._task

    live(go())
    assert page[-1] == bundle(explorer.figure(**{**SETTINGS, "seed": 2, "iterations": 40}))


@pytest.mark.usefixtures("hasty")
def test_reset_stops_the_training(explorer, page):
    async def go():
        explorer.train()
        while len(page) < 3:
            await asyncio.sleep(0)
        explorer.reset()
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert step_shown(page[-1]) == 0 and not explorer.training

    live(go())


@pytest.mark.usefixtures("hasty")
def test_at_the_end_train_begins_anew(explorer, page):
    async def go():
        explorer.train()
        await explorer._task
        page.clear()
        explorer.train()
        await explorer._task
        assert step_shown(page[0]) == 1

    live(go())


def test_other_events_are_handled_during_training(page):
    # The real pace and size: between two pieces of training everything that waits gets its turn.
    explorer = widgets.ufm.UFMExplorer(ufm.UFM_10, iterations=3000)
    turns = []

    async def others():
        while explorer.training:
            turns.append(explorer.current().iteration)
            await asyncio.sleep(0)

    async def go():
        explorer.train()
        other = asyncio.create_task(others())
        while len(page) < 6:
            await asyncio.sleep(0.001)
        explorer.pause()
        drawn = len(page)
        await asyncio.sleep(2 * widgets.training.PACE)
        await other
        assert len(page) == drawn

    live(go())
    assert len(set(turns)) >= 5


@pytest.mark.usefixtures("hasty")
def test_an_error_in_training_is_seen(explorer, monkeypatch):
    monkeypatch.setattr(widgets.ufm.Run, "advance", lambda *_: 1 / 0)

    async def go():
        explorer.train()
        task = explorer._task
        with pytest.raises(ZeroDivisionError):
            await task

    live(go())
    assert explorer.status.value == "stopped: division by zero" and not explorer.training
    assert not explorer.buttons["train"].disabled


# The other two


def test_watch_ufm(page):
    run = widgets.ufm.watch_ufm(SMALL, iterations=8, every=0)
    assert isinstance(run, History)
    assert set(run.frame["head"]) == {"standard", "fixed", "implicit"} and run.frame["iteration"].max() == 8
    assert len(page) == len(ufm.log_points(8))


def test_watch_ufm_draws_the_end_however_rarely(page):
    run = widgets.ufm.watch_ufm(SMALL, heads=("fixed",), iterations=8, every=math.inf)
    assert run.frame["iteration"].max() == 8
    assert page[-1] == bundle(plots.ufm.ufm_panels(run, 3))


def test_watched_runs_are_those_of_train_ufm():
    watched = widgets.ufm.watch_ufm(SMALL, heads=("implicit",), iterations=8, seed=2)
    trained = ufm.train_ufm(SMALL, "implicit", 8, [2])
    np.testing.assert_allclose(watched.frame["loss"], trained.frame["loss"], rtol=1e-4)
