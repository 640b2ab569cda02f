"""What the explorers that train share: buttons to train and to pause, and a loop that lets the page draw."""

import asyncio
import sys
import time
from typing import Any

import ipywidgets as widgets

from labkit.widgets.base import Explorer, button

# Seconds: of training between two looks at the buttons; that the page gets for drawing, at least; from one figure to
# the next
CHUNK, REST, PACE = 0.05, 0.04, 0.12


class TrainingExplorer(Explorer):
    """An explorer of something in training, which can be stopped at any moment.

    `train()` and `pause()` are the buttons; `run()` trains to the end before it returns. A change of a setting begins
    anew, and goes on training if it was. figure(**state) is trained to the end; figure(**state, iteration=t) for t
    steps.

    A subclass has new_run(**settings), which gives an object with `settings`, `iteration` and advance(iteration,
    seconds); drawn(run), its figure; and, where they are not those below, split, end and looks.
    """

    unit = "step"

    def __init__(self):
        self._task = self._run = self._kept = None
        super().__init__()
        self._buttons()

    def new_run(self, **settings: Any):
        raise NotImplementedError

    def drawn(self, run: Any):
        raise NotImplementedError

    def split(self, **state: Any):
        """The settings of a run, and the iteration at which it ends."""
        raise NotImplementedError

    def looks(self, iteration: int, end: int):
        """The next iteration to draw at."""
        return end

    def commands(self):
        self.status = widgets.Label(layout=widgets.Layout(margin="0 0 0 12px"))
        return {
            "train": button("train", "play", "train on from here", self.train),
            "pause": button("pause", "pause", "stop here", self.pause),
            **super().commands(),
            "status": self.status,
        }

    def figure(self, iteration: int | None = None, **state: Any):
        settings, end = self.split(**state)
        wanted, run = end if iteration is None else iteration, self._kept
        if run is None or run.settings != settings or run.iteration > wanted:
            run = self.new_run(**settings)
        run.advance(wanted)
        self._kept = run  # the next wanted may be further on in the same training
        return self.drawn(run)

    def current(self):
        """The run of the present settings: the one that there is, or a new one where settings have changed since."""
        settings, end = self.split(**self.state)
        if self._run is None or self._run.settings != settings or self._run.iteration > end:
            self._run = self.new_run(**settings)
        return self._run

    def present(self):
        return self.drawn(self.current())

    def redraw(self):
        super().redraw()
        self._buttons()

    def _buttons(self):
        done, end = 0 if self._run is None else self._run.iteration, self.split(**self.state)[1]
        self.buttons["train"].disabled, self.buttons["pause"].disabled = self.training, not self.training
        self.status.value = f"{self.unit} {done} of {end}"

    def _advance(self, seconds, next_look=False):
        """Train for about that many seconds, or to the next look. Returns whether there is more to do."""
        with self._lock:  # a change from another thread waits for the end of this piece
            run, end = self.current(), self.split(**self.state)[1]
            run.advance(min(end, self.looks(run.iteration, end)) if next_look else end, seconds)
            return run.iteration < end

    def run(self):
        """Train to the end, draw, and return."""
        while self._advance(CHUNK):
            pass
        self.redraw()

    @property
    def training(self):
        return self._task is not None

    def train(self):
        """Train and draw on the way, as a task of the event loop that Jupyter has: this returns at once.

        Without a loop, as in a script, it is the same as `run()`.
        """
        if self.training:
            return None
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return self.run()
        if self.current().iteration >= self.split(**self.state)[1]:
            self._run = None  # at the end: once more from the start
        self._task = loop.create_task(self._train())
        self._buttons()

    async def _train(self):
        me, more = self._task, True
        try:
            while self._task is me and more:
                started = time.monotonic()
                more = self._advance(CHUNK, next_look=True)
                self.redraw()
                await asyncio.sleep(max(REST, PACE - (time.monotonic() - started)))
        finally:
            if self._task is me:
                self.pause()
            if (error := sys.exc_info()[1]) is not None:  # the event loop only writes it to the server's log
                self.status.value = f"stopped: {error}"

    def pause(self):
        self._task = None
        self._buttons()

    def reset(self):
        self._task = self._run = None
        super().reset()
