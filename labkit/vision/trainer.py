"""One training loop for any backbone and any head, on one process or several, with Hugging Face accelerate.

    here = processes.accelerator("bf16")                        on the GPU where there is one
    Trainer(backbone, head, optimizer, train=batches, clean=in_order, test=test, name="implicit", epochs=200,
            schedule="cosine", folder="runs/0", on=here).run()  -> History

On several processes (labkit.vision.processes says how they are started) the same lines train together.
"""

import contextlib
import json
import math
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm

from labkit import checks, streaming
from labkit.history import History, provenance, sample_margins
from labkit.metrics import over_processes
from labkit.vision import checkpoints, processes

# The factor on every learning rate, by the share of training that is done.
SCHEDULES = {
    None: lambda share: 1.0,
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "steps": lambda share: (
        0.1 ** ((share >= 0.5) + (share >= 0.75))
    ),  # to a tenth after a half and after three quarters
}
HISTORY = "history.parquet"


class Classifier(nn.Module):
    """A backbone and a head as one module: images and labels to logits."""

    def __init__(self, backbone, head):
        super().__init__()
        self.backbone, self.head = backbone, head

    def forward(self, images, labels):
        return self.head(self.backbone(images), labels)


class Trainer:
    """Trains in place, measures after every epoch, and goes on from the last checkpoint in `folder` where there is one.

    backbone: images -> features (n, d), such as `backbones.create(...)`. head: any of labkit.heads.
    optimizer: any of torch.optim, or AGD, over the parameters of both.
    train, clean, test: `batches.Batches`, whose `epoch(k)` yields this process's share (images, labels) of every batch
        of epoch k. `clean` is the training set without augmentation, on which collapse is
        measured; `test` may be missing. Labels may be probabilities (n, C), as MixUp makes them; the head is then told
        the likeliest class.
    name, seed: what the rows are called; `seed` also starts the generators that dropout draws from.
    epochs; schedule: None, "cosine" (to 0, step by step) or "steps" (a tenth after a half and after three quarters).
    folder: of checkpoints and history.parquet, both written after every epoch; None keeps nothing.
    settings: dict of plain values to be kept in the History, and to be the same when a run goes on.
    on: from `processes.accelerator`; made here where none is given. progress: a tqdm bar on stderr, with the time left.

    Attributes: backbone, head, epoch (those done), losses (of each step of the last epoch), rows, margins.
    With several processes, losses and gradients are those of the whole batch, whatever the share of each, and measures
    are of all samples. Batch norms see the share of their own process, as is usual.
    Raises ValueError for an optimiser that misses a parameter, for a schedule with an optimiser that has no learning
    rate, for a folder whose run had other settings, and for bad values.
    """

    def __init__(
        self,
        backbone,
        head,
        optimizer,
        train,
        clean,
        test=None,
        *,
        name,
        epochs,
        seed=0,
        schedule=None,
        folder=None,
        settings=None,
        on=None,
        progress=False,
    ):
        checks.one_of("schedule", schedule, tuple(SCHEDULES))
        if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
            raise ValueError(f"epochs must be an integer of at least 1, got {epochs!r}")
        self._check_optimizer(backbone, head, optimizer, schedule)
        self.on = on or processes.accelerator()
        where = (self.on.process_index, self.on.num_processes)
        for batches in filter(
            None, (train, clean, test)
        ):  # else every process would learn from the same share, or the whole
            if (found := (batches.rank, batches.processes)) != where:
                raise ValueError(
                    f"this is process {where[0]} of {where[1]}, but batches are for {found[0]} of {found[1]}; "
                    "give them processes.place(…)"
                )
        self.backbone, self.head = backbone.to(self.on.device), head.to(self.on.device)
        self.train, self.clean, self.test = train, clean, test
        self.name, self.seed, self.epochs, self.progress = name, seed, epochs, progress
        self.folder = None if folder is None else Path(folder)
        self.settings = json.loads(
            json.dumps(
                {
                    "head": name,
                    "seed": seed,
                    "epochs": epochs,
                    "steps": len(train),
                    "schedule": schedule,
                    "precision": self.on.mixed_precision,
                    "optimizer": _described(optimizer),
                    **(settings or {}),
                }
            )
        )
        self.schedule = None
        if schedule:
            factor, steps = SCHEDULES[schedule], epochs * len(train)
            self.schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / steps))
        # Accelerate's optimiser is for float16, whose gradients have to be scaled; it costs a third of a millisecond a
        # step.
        self.optimizer = self.on.prepare_optimizer(optimizer) if self.on.scaler else optimizer
        # A look at the loss makes a GPU wait; on a CPU it costs nothing. The step that an error names is exact either
        # way.
        self.check_every = 1 if self.on.device.type == "cpu" else 50
        self.epoch, self.rows, self.margins, self.losses, self._generators = 0, [], None, None, None
        self.checkpoint = None  # the last one written or read
        if self.folder is not None:
            self._claim = checkpoints.claim(self.folder) if self.on.is_main_process else None
            self._resume()
        self.model = self.on.prepare_model(Classifier(self.backbone, self.head))

    def run(self):
        """Train to the end; returns the History: a row for every epoch (see `measure`) and the margins at the end."""
        for _ in self.each_epoch():
            pass
        return self.history()

    def each_epoch(self):
        """Train to the end, and yield the row of each epoch when it is measured; the first is that before training,
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
                yield self._end_of_epoch(loss=math.nan, seconds=0.0)
            while self.epoch < self.epochs:
                begin = time.perf_counter()
                with self._own_generators():
                    self._train()
                self.epoch += 1
                yield self._end_of_epoch(loss=self.losses.double().mean().item(), seconds=time.perf_counter() - begin)

    def measure(self):
        """The measures of the present state, as in `streaming.collapse`, and test_loss and test_accuracy; nothing
        moves.
        """
        self.backbone.eval(), self.head.eval()
        values = streaming.collapse(lambda: self._features(self.clean), self.head, margins=self.epoch == self.epochs)
        if self.test is not None:
            found = streaming.accuracy(lambda: self._features(self.test), self.head)
            values |= {f"test_{key}": value for key, value in found.items()}
        return values

    def history(self):
        """What was measured so far, as a History."""
        margins = None if self.margins is None else sample_margins(self.name, [self.seed], [self.margins])
        return History(pd.DataFrame(self.rows), {**self.settings, **provenance(self.on.device)}, margins)

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

    def _step(self, step, images, targets):
        labels = targets if targets.ndim == 1 else targets.argmax(-1)
        (total,) = over_processes(torch.full((), float(len(labels)), device=self.on.device))  # filled there: no wait
        # The share of this process in the mean over the whole batch. DDP averages gradients over processes: times their
        # number.
        loss = F.cross_entropy(self.model(images, labels), targets, reduction="sum") / total
        self.losses[step] = loss.detach()
        self.on.backward(loss * self.on.num_processes)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.schedule and not getattr(
            self.optimizer, "step_was_skipped", False
        ):  # as scaled float16 gradients can make it
            self.schedule.step()
        self.head.after_step()

    def _end_of_epoch(self, loss, seconds):
        self._average_buffers()
        begin = time.perf_counter()
        try:
            values = self.measure()
        except checks.NotFinite as error:  # the step after the last loss
            raise self._diverged(self.epoch * len(self.train), error) from error
        self.margins = values.pop("margins", None)
        row = {
            "head": self.name,
            "seed": self.seed,
            "iteration": self.epoch,
            "steps": self.epoch * len(self.train),
            "lr": self.optimizer.param_groups[0].get("lr", math.nan),
            "batch_loss": loss,
            **values,
            "seconds": seconds,
            "seconds_measuring": time.perf_counter() - begin,
        }
        self.rows.append(row)
        if self.folder is not None:
            self._save()
        self._bar.set_postfix(
            {key: f"{row[key]:.3g}" for key in ("loss", "accuracy", "test_accuracy", "nc1") if key in row}
        )
        return row

    @torch.no_grad()
    def _features(self, batches):
        for images, labels in batches.epoch(0):
            with self.on.autocast():
                features = self.backbone(images)
            yield features, labels

    @torch.no_grad()
    def _average_buffers(self):
        """Running statistics of batch norms, in which each process has its own last share, become their mean over
        processes.
        """
        for buffer in self.backbone.buffers():
            if buffer.is_floating_point() and self.on.num_processes > 1:
                over_processes(buffer)
                buffer /= self.on.num_processes

    @contextlib.contextmanager
    def _own_generators(self):
        """Random numbers from the run's own stream, different on every process; the caller's generators stay as they
        are.
        """
        device = self.on.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            if self._generators is None:
                torch.manual_seed(self.seed + 1_000_003 * (self.on.process_index + 1))
            else:
                torch.set_rng_state(self._generators["cpu"])
                if device.type == "cuda":
                    torch.cuda.set_rng_state(self._generators["cuda"], device)
            yield
            self._generators = {"cpu": torch.get_rng_state()}
            if device.type == "cuda":
                self._generators["cuda"] = torch.cuda.get_rng_state(device)

    def _diverged(self, step, reason):
        if self.folder is None:
            last = "no checkpoint was kept (folder=None)"
        else:
            last = f"last good checkpoint: {self.checkpoint or 'none yet'}"
        return FloatingPointError(f"{self.name}, seed {self.seed}: stopped at step {step}: {reason}; {last}")

    # --- what is kept ---

    def _save(self):
        generators = [self._generators]
        if self.on.num_processes > 1:
            generators = [None] * self.on.num_processes
            torch.distributed.all_gather_object(generators, self._generators)
        if self.on.is_main_process:
            self.history().save(self.folder / HISTORY)
            checkpoints.save(
                self.folder,
                self.epoch,
                {
                    "settings": self.settings,
                    "epoch": self.epoch,
                    "rows": self.rows,
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
            return
        differs = {
            key: f"{state['settings'].get(key)!r} there, {self.settings.get(key)!r} here"
            for key in state["settings"].keys() | self.settings.keys()
            if state["settings"].get(key) != self.settings.get(key)
        }
        if differs:
            raise ValueError(
                f"{path} is of a run with other settings, and another folder is needed: "
                + "; ".join(f"{key}: {values}" for key, values in sorted(differs.items()))
            )
        for part, thing in self._parts().items():
            thing.load_state_dict(state["parts"][part])
        self.checkpoint, self.epoch, self.rows = path, state["epoch"], state["rows"]
        self.margins = None if state["margins"] is None else state["margins"].numpy()
        mine = state["generators"][self.on.process_index :]
        self._generators = mine[0] if mine else None  # a process that the run did not have before starts from its seed

    def _parts(self):
        parts = {"backbone": self.backbone, "head": self.head, "optimizer": self.optimizer}
        return parts | {key: thing for key, thing in (("schedule", self.schedule), ("scaler", self.on.scaler)) if thing}

    @staticmethod
    def _check_optimizer(backbone, head, optimizer, schedule):
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        missing = [
            f"{part}.{name}"
            for part, module in (("backbone", backbone), ("head", head))
            for name, p in module.named_parameters()
            if p.requires_grad and id(p) not in held
        ]
        if missing:
            raise ValueError(
                f"the optimiser does not have {len(missing)} parameters that want a gradient: "
                f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}; give it those of backbone and head"
            )
        if schedule and any("lr" not in group for group in optimizer.param_groups):
            raise ValueError(
                f"schedule={schedule!r} is for an optimiser with a learning rate, and "
                f"{type(optimizer).__name__} has none: use schedule=None"
            )


def _described(optimizer):
    """The name of an optimiser and the plain values of each of its groups."""
    plain = (bool, int, float, str, type(None), tuple, list)
    groups = [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, plain)}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, "groups": groups}
