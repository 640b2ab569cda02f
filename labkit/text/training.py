"""Training of a language model: warm-up and cosine, gradient accumulation, clipping, and measurements in between.

The loop is as short as can be, and asks nothing of a model but model(tokens).logits. It runs on one process or on
several (torchrun), by Hugging Face accelerate.

It is not the loop of labkit.vision: that one counts epochs, has one batch a step and measures heads, this one counts
steps, adds up micro-batches and clips gradients. One for both would be longer, and neither room imports the other.
"""

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from labkit.history import History, differences, plain, provenance
from labkit.system import written_whole
from labkit.text.corpora import Batches

CHECKPOINT, HISTORY = "last.pt", "history.parquet"


def cosine(step: int, steps: int, warmup: int, floor: float) -> float:
    """The factor on the learning rate of step 0, 1, …: a line up to 1 over `warmup` steps, then half a cosine down to
    `floor` at `steps`, as in build-nanogpt.

    >>> [round(cosine(step, 10, 2, 0.1), 3) for step in (0, 1, 2, 6, 10)]
    [0.5, 1.0, 1.0, 0.55, 0.1]
    """
    if step < warmup:
        return (step + 1) / warmup
    share = min(1.0, (step - warmup) / max(1, steps - warmup))
    return floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2


class Trainer:
    """Trains a model in place, measures every so often, and goes on from the checkpoint in `folder` if there is one.

    model: model(tokens (B, T)).logits -> (B, T, vocabulary). optimizer: over its parameters.
    train: `Batches`, of which `accumulate` make up one step.
    measure: called without arguments for a dict of numbers, such as {"validation_loss": 3.1}, before training, every
        `every` steps and at the end.
    schedule: factor on every learning rate, by the number of the step. clip: largest norm of all gradients together.
    name, seed: what the rows are called. settings: plain values, kept in the History; a run goes on only with the same.
    Raises FloatingPointError, with the step, where a loss or a gradient is not finite; ValueError for a folder whose
        run had other settings, or has no checkpoint left to go on from; RuntimeError where another process is at it.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        train: Batches,
        measure: Callable[[], dict],
        *,
        name: str,
        steps: int,
        every: int,
        accumulate: int = 1,
        schedule: Callable[[int], float] = lambda step: 1.0,
        clip: float = math.inf,
        seed: int = 0,
        folder: str | Path | None = None,
        settings: dict | None = None,
        on: Accelerator | None = None,
        progress: bool = False,
    ):
        self.on = on or Accelerator(cpu=not torch.cuda.is_available())
        if (here := (self.on.process_index, self.on.num_processes)) != (train.rank, train.processes):
            raise ValueError(f"(process, processes) is {here}, but batches are for {(train.rank, train.processes)}")
        self.model, self.optimizer, self.train, self.measure = model.to(self.on.device), optimizer, train, measure
        self.name, self.steps, self.every, self.accumulate = name, steps, every, accumulate
        self.schedule, self.clip, self.seed, self.progress = schedule, clip, seed, progress
        self.folder = None if folder is None else Path(folder)
        self.settings = plain({"head": name, "seed": seed, "steps": steps, **(settings or {})})
        self.rates = [group["lr"] for group in optimizer.param_groups]
        self.step, self.rows = 0, []
        if self.folder is not None:
            self._claim = self._claimed() if self.on.is_main_process else None
            self._resume(self.folder / CHECKPOINT)
        self.parallel = self.on.prepare_model(self.model)

    def run(self) -> History:
        """Train to the end."""
        for _ in self.each_row():
            pass
        return self.history()

    def each_row(self) -> Iterator[dict]:
        """Train to the end, and yield the row of every measurement."""
        if not self.rows:
            yield self._measured(math.nan, math.nan)
        hidden = not (self.progress and self.on.is_main_process)
        with tqdm(total=self.steps, initial=self.step, desc=self.name, disable=hidden, mininterval=0.5) as self._bar:
            while self.step < self.steps:
                begin, losses = time.perf_counter(), self._train()
                yield self._measured(sum(losses) / len(losses), (time.perf_counter() - begin) / len(losses))

    def history(self) -> History:
        """What was measured so far; `iteration` counts steps, batch_loss is the mean since the row before."""
        return History(pd.DataFrame(self.rows), {**self.settings, **provenance(self.on.device)})

    def _train(self):
        """The losses of the steps up to the next measurement."""
        self.model.train()
        with torch.random.fork_rng([self.on.device] if self.on.device.type == "cuda" else []):
            # Dropout draws from (seed, step, process), so that a run that was stopped goes on as it would have.
            torch.manual_seed(self.seed + 1_000_003 * self.step + 7_919 * self.on.process_index)
            return [self._step() for _ in range(min(self.every, self.steps - self.step))]

    def _step(self):
        for group, rate in zip(self.optimizer.param_groups, self.rates):
            group["lr"] = rate * self.schedule(self.step)
        loss = torch.zeros((), device=self.on.device)
        for part in range(self.accumulate):
            tokens, targets = self.train.batch(self.step * self.accumulate + part)
            # Gradients are averaged over processes once a step, with the last part.
            self.parallel.require_backward_grad_sync = part + 1 == self.accumulate
            with self._autocast():
                logits = self.parallel(tokens).logits
            share = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten()) / self.accumulate
            self.on.backward(share)
            loss += share.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        loss = self.on.reduce(loss, "mean").item()
        self.step += 1
        if not (math.isfinite(loss) and math.isfinite(norm)):
            what = f"the loss is {loss}, the norm of its gradient {norm}"
            raise FloatingPointError(f"{self.name}, seed {self.seed}: stopped at step {self.step}: {what}")
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._bar.update()
        self._bar.set_postfix(loss=f"{loss:.3f}", refresh=False)
        return loss

    def _autocast(self):
        """In the precision that the Accelerator was made with; its own `autocast` has that of the last one made."""
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.on.mixed_precision)
        return torch.autocast(self.on.device.type, dtype, enabled=dtype is not None)

    def _measured(self, loss, seconds):
        self.model.eval()
        with torch.no_grad(), self._autocast():
            values = self.measure()
        row = {"head": self.name, "seed": self.seed, "iteration": self.step, "batch_loss": loss}
        self.rows.append({**row, **values, "seconds_a_step": seconds})
        if self.folder is not None and self.on.is_main_process:
            self.history().save(self.folder / HISTORY)
            state = {"settings": self.settings, "step": self.step, "rows": self.rows}
            with written_whole(self.folder / CHECKPOINT) as file:
                torch.save(state | {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, file)
        self.on.wait_for_everyone()
        return self.rows[-1]

    def _claimed(self):
        """The folder is this process's for as long as what is returned is kept."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(self.folder / ".lock", timeout=0, is_singleton=True)
        try:
            lock.acquire()
        except filelock.Timeout:
            told = f"another process is training in {self.folder}; wait for it, or take another folder"
            raise RuntimeError(told) from None
        return lock

    def _resume(self, path):
        if not path.is_file():
            if (kept := self.folder / HISTORY).is_file() and (steps := History.load(kept).frame["iteration"].max()):
                raise ValueError(f"{kept} has {steps} steps of a run without {CHECKPOINT}; another folder is needed")
            return
        try:
            state = torch.load(path, map_location=self.on.device, weights_only=True)
            if state["settings"] != self.settings:
                raise ValueError(f"its settings are others: {differences(state['settings'], self.settings)}")
            self.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.step, self.rows = state["step"], state["rows"]
        except Exception as error:  # torch has many kinds for a damaged file
            raise ValueError(f"{path} cannot be gone on from; take another folder: {error}") from error
