"""One training loop for any backbone and any head, on one process or several, with Hugging Face accelerate.

    here = processes.accelerator("bf16")                        on the GPU where there is one
    Trainer(backbone, head, optimizer, train=batches, clean=in_order, test=test, name="implicit", epochs=200,
            schedule="cosine", folder="runs/0", on=here).run()  -> History
    Trainer(network, None, optimizer, train, measure=lambda trainer: {"accuracy": …}, name="mine", epochs=5).run()

On several processes (labkit.vision.training.processes says how they are started) the same lines train together.
"""

import math
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from labkit import checks, streaming
from labkit.history import History, differences, plain, provenance, sample_margins
from labkit.system import over_processes
from labkit.vision.batches import Batches
from labkit.vision.training import checkpoints, optimizers, processes
from labkit.vision.training.classifier import Classifier, NoHead

HISTORY = "history.parquet"


class Trainer:
    """Trains in place, measures after every epoch, and goes on from the last checkpoint in `folder` where there is one.

    backbone: images -> features (n, d), such as `backbones.create(...)`. head: any of labkit.heads, or None where the
        backbone gives logits by itself.
    optimizer: any of torch.optim, or AGD, over the parameters of both. Its hooks see every step.
    train, clean, test: `batches.Batches`, whose `epoch(k)` yields this process's share (images, labels) of every batch
        of epoch k. `clean` is what collapse is measured on, as a rule the training set without augmentation; `test` may
        be missing. Labels may be probabilities (n, C), as MixUp makes them.
    name, seed: what the rows are called; `seed` also starts the generators that dropout draws from.
    epochs; schedule, warmup: one of optimizers.SCHEDULES, and for how many epochs the rate rises first.
    label_smoothing: as in torch's cross entropy.
    measure: function of the Trainer that gives a row's measures as a dict, in place of the method `measure`; neither
        head nor `clean` is needed then. measure_at: the epochs after which to measure; None is all. Before training and
        after the last epoch is always measured.
    folder: of checkpoints, written after every epoch, and of history.parquet; None keeps nothing.
    settings: dict of plain values to be kept in the History, and to be the same when a run goes on.
    channels_last, compile: lay the images out channel by channel for each pixel; let torch.compile have the backbone.
    on: from `processes.accelerator`; made here where none is given. progress: a tqdm bar on stderr, with the time left.

    Attributes: backbone, head, epoch (those done), losses (of each step of the last epoch), rows, margins.
    With several processes, losses and gradients are those of the whole batch, whatever the share of each, and measures
    are of all samples. Batch norms, and a bias of the batch where it is measured, see the share of their own process.
    Raises ValueError for an optimiser that misses a parameter, for a schedule with an optimiser that has no learning
    rate, for a folder whose run had other settings, and for bad values.
    """

    def __init__(
        self,
        backbone: nn.Module,
        head: nn.Module | None,
        optimizer: torch.optim.Optimizer,
        train: Batches,
        clean: Batches | None = None,
        test: Batches | None = None,
        *,
        name: str,
        epochs: int,
        seed: int = 0,
        schedule: str | None = None,
        warmup: int = 0,
        label_smoothing: float = 0.0,
        measure: Callable | None = None,
        measure_at: Collection[int] | None = None,
        folder: str | Path | None = None,
        settings: dict | None = None,
        channels_last: bool = False,
        compile: bool = False,
        on: Accelerator | None = None,
        progress: bool = False,
    ):
        head = NoHead() if head is None else head
        epochs = checks.integer("epochs", epochs, 1)
        optimizers.check(optimizer, {"backbone": backbone, "head": head}, schedule, epochs, warmup)
        if measure is None and clean is None:
            raise ValueError("a Trainer needs batches to measure collapse on (clean), or a function (measure)")
        self.on = on or processes.accelerator()
        where = (self.on.process_index, self.on.num_processes)
        for batches in filter(None, (train, clean, test)):
            # else every process would learn from the same share, or the whole
            if (found := (batches.rank, batches.processes)) != where:
                raise ValueError(
                    f"this is process {where[0]} of {where[1]}, but batches are for {found[0]} of {found[1]}; "
                    "give them processes.place(…)"
                )
        self.layout = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone = backbone.to(self.on.device, memory_format=self.layout)
        self.head = head.to(self.on.device)
        self.train, self.clean, self.test = train, clean, test
        self.name, self.seed, self.epochs, self.progress = name, seed, epochs, progress
        self.label_smoothing = label_smoothing
        if measure is not None:
            self.measure = lambda: measure(self)
        self.measure_at = set(range(epochs + 1)) if measure_at is None else {0, *measure_at, epochs}
        self.folder = None if folder is None else Path(folder)
        self.settings = plain(
            {
                "head": name,
                "seed": seed,
                "epochs": epochs,
                "steps": len(train),
                "schedule": schedule,
                "warmup": warmup,
                "label_smoothing": label_smoothing,
                "measure_at": None if measure_at is None else sorted(map(int, measure_at)),
                "precision": self.on.mixed_precision,
                "optimizer": optimizers.described(optimizer),
                **(settings or {}),
            }
        )
        self.schedule = optimizers.schedule(schedule, optimizer, epochs, len(train), warmup)
        self.by_epoch = optimizers.by_epoch(schedule)
        # Accelerate's optimiser is for float16, whose gradients have to be scaled; it costs a third of a millisecond a
        # step.
        self.optimizer = self.on.prepare_optimizer(optimizer) if self.on.scaler else optimizer
        # A look at the loss makes a GPU wait; on a CPU it costs nothing. The step that an error names is exact either
        # way.
        self.check_every = 1 if self.on.device.type == "cpu" else 50
        self.epoch, self.rows, self.margins, self.losses = 0, [], None, None
        self.generators = processes.Generators(seed, self.on)
        self.seconds = 0.0  # of training since the last row
        self.checkpoint = None  # the last one written or read
        if self.folder is not None:
            self._claim = checkpoints.claim(self.folder) if self.on.is_main_process else None
            self._resume()
        self._network = torch.compile(self.backbone) if compile else self.backbone
        with processes.state_of(self.on):
            self.model = self.on.prepare_model(Classifier(self._network, self.head))

    def run(self) -> History:
        """Train to the end; returns the History: a row for every epoch (see `measure`) and the margins at the end."""
        for _ in self.each_epoch():
            pass
        return self.history()

    def each_epoch(self) -> Iterator[dict]:
        """Train to the end, and yield the row of each epoch that is measured; the first is that before training,
        epoch 0.

        Raises FloatingPointError where the loss is not finite, with the step and the last checkpoint.
        """
        steps = len(self.train)
        with tqdm(
            total=self.epochs * steps,
            initial=self.epoch * steps,
            desc=f"{self.name}, seed {self.seed}",
            disable=not (self.progress and self.on.is_main_process),
            mininterval=0.5,
            unit="step",
        ) as self._bar:
            if not self.rows:
                yield self._measured(loss=math.nan)
            while self.epoch < self.epochs:
                begin = time.perf_counter()
                with self.generators:
                    self._train()
                processes.average_buffers(self.backbone, self.on)
                self.epoch += 1
                self.seconds += time.perf_counter() - begin
                if self.epoch in self.measure_at:
                    yield self._measured(loss=self.losses.double().mean().item())
                elif self.folder is not None:
                    self._save()

    def measure(self) -> dict:
        """The measures of the present state, as in `streaming.collapse`, and test_loss and test_accuracy; nothing
        moves.
        """
        self.backbone.eval(), self.head.eval()
        values = streaming.collapse(lambda: self._features(self.clean), self.head, margins=self.epoch == self.epochs)
        if self.test is not None:
            found = streaming.accuracy(lambda: self._features(self.test), self.head)
            values |= {f"test_{key}": value for key, value in found.items()}
        return values

    def history(self) -> History:
        """What was measured so far, as a History. Its column lr is the rate that the next step would have."""
        margins = None if self.margins is None else sample_margins(self.name, [self.seed], [self.margins])
        here = {"processes": self.on.num_processes} | provenance(self.on.device)  # batch norms see the share of one
        return History(pd.DataFrame(self.rows), self.settings | here, margins)

    # --- an epoch ---

    def _train(self):
        self.backbone.train(), self.head.train()
        self.losses = torch.zeros(len(self.train), device=self.on.device)
        looked = 0
        before = self.epoch * len(self.train)
        for step, (images, targets) in enumerate(self.train.epoch(self.epoch)):
            try:
                self._step(step, images, targets)
            except checks.NotFinite as error:  # heads that look at the features may see it before the loss is known
                raise self._diverged(before + step + 1, error) from error
            self._bar.update()
            if (step + 1) % self.check_every == 0 or step + 1 == len(self.train):
                (recent,) = over_processes(self.losses[looked : step + 1])
                if not math.isfinite(recent.double().sum()):
                    first = int((~recent.isfinite()).nonzero()[0])
                    raise self._diverged(before + looked + first + 1, f"the loss is {recent[first].item()}")
                looked = step + 1
        if not all(parameter.isfinite().all() for parameter in self.model.parameters()):
            raise self._diverged(before + len(self.train), "it left weights that are not finite")
        if self.by_epoch:
            self.schedule.step()

    def _step(self, step, images, targets):
        (total,) = over_processes(torch.full((), float(len(targets)), device=self.on.device))  # filled there: no wait
        logits = self.model(images.contiguous(memory_format=self.layout), targets)
        # The share of this process in the mean over the whole batch. DDP averages gradients over processes: times their
        # number.
        loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=self.label_smoothing) / total
        self.losses[step] = loss.detach()
        self.on.backward(loss * self.on.num_processes)
        self.optimizer.step()
        self.optimizer.zero_grad()
        skipped = getattr(self.optimizer, "step_was_skipped", False)  # as scaled float16 gradients can make it
        if self.schedule and not self.by_epoch and not skipped:
            self.schedule.step()

    def _measured(self, loss):
        """The row of the present epoch, kept and, where there is a folder, written."""
        begin = time.perf_counter()
        try:
            values = self.measure()
        except checks.NotFinite as error:  # the step after the last loss
            raise self._diverged(self.epoch * len(self.train), error) from error
        self.margins = values.pop("margins", None)
        row = {  # plain, as a checkpoint with numbers of NumPy could not be read again
            "head": self.name,
            "seed": self.seed,
            "iteration": self.epoch,
            "steps": self.epoch * len(self.train),
            "lr": self.optimizer.param_groups[0].get("lr", math.nan),
            "batch_loss": loss,
            **values,
            "seconds": self.seconds,
            "seconds_measuring": time.perf_counter() - begin,
        }
        self.rows.append(row := plain(row))
        self.seconds = 0.0
        if self.folder is not None:
            self._save()
        shown = ("loss", "accuracy", "test_accuracy", "nc1")
        self._bar.set_postfix({key: f"{row[key]:.3g}" for key in shown if key in row})
        return row

    @torch.no_grad()
    def _features(self, batches):
        for images, labels in batches.epoch(self.epoch):
            with processes.autocast(self.on):
                features = self._network(images.contiguous(memory_format=self.layout))
            yield features, labels

    def _diverged(self, step, reason):
        if self.folder is None:
            last = "no checkpoint was kept (folder=None)"
        else:
            last = f"last good checkpoint: {self.checkpoint or 'none yet'}"
        return FloatingPointError(f"{self.name}, seed {self.seed}: stopped at step {step}: {reason}; {last}")

    # --- what is kept ---

    def _save(self):
        generators = self.generators.of_all()
        if self.on.is_main_process:
            self.history().save(self.folder / HISTORY)
            checkpoints.save(
                self.folder,
                self.epoch,
                {
                    "settings": self.settings,
                    "epoch": self.epoch,
                    "rows": self.rows,
                    "seconds": self.seconds,
                    "margins": None if self.margins is None else torch.from_numpy(self.margins),
                    "generators": generators,
                    "parts": {part: thing.state_dict() for part, thing in self._parts().items()},
                },
            )
        self.on.wait_for_everyone()
        self.checkpoint = checkpoints.path_of(self.folder, self.epoch)

    def _resume(self):
        path, state = checkpoints.latest(self.folder)
        if state is None:
            if (kept := self.folder / HISTORY).is_file() and (epochs := History.load(kept).frame["iteration"].max()):
                raise ValueError(
                    f"{kept} has {epochs} epochs of a run that no checkpoint is left of; another folder is needed"
                )
            return
        if state["settings"] != self.settings:
            raise ValueError(
                f"{path} is of a run with other settings, and another folder is needed: "
                f"{differences(state['settings'], self.settings)}"
            )
        for part, thing in self._parts().items():
            thing.load_state_dict(state["parts"][part])
        self.checkpoint, self.epoch, self.rows, self.seconds = path, *(state[k] for k in ("epoch", "rows", "seconds"))
        self.margins = None if state["margins"] is None else state["margins"].numpy()
        self.generators.set(state["generators"])

    def _parts(self):
        parts = {"backbone": self.backbone, "head": self.head, "optimizer": self.optimizer}
        return parts | {key: thing for key, thing in (("schedule", self.schedule), ("scaler", self.on.scaler)) if thing}
