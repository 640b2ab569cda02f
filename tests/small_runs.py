"""Trainings of a second on digits, for the tests of the loop; as a program, one of them in a process of its own.

python tests/small_runs.py FOLDER
"""

import copy
import itertools
import sys

import torch
from torch import nn

from labkit import streaming
from labkit.heads import HEADS
from labkit.optim import AGD
from labkit.vision import data
from labkit.vision.augment import PaddedCrop
from labkit.vision.batches import Batches
from labkit.vision.training import processes, trainer

COUNT, DIM = 300, 16  # digits to train on, features
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-3),
    "adam": lambda p: torch.optim.AdamW(p, lr=1e-2),
    "agd": lambda p: AGD(p, gain=2.0),
}


def sets():
    """The first digits of each split."""
    return tuple(data.load("digits", split, count=COUNT) for split in data.SPLITS)


def build(head, optimizer="sgd", plain=True, seed=0):
    """A network of two layers, a head and an optimiser; with batch norm and dropout too where it need not be plain."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        extra = [] if plain else [nn.BatchNorm1d(32, affine=optimizer != "agd"), nn.Dropout(0.2)]
        bias = optimizer != "agd"
        backbone = nn.Sequential(nn.Flatten(), nn.Linear(64, 32, bias), *extra, nn.ReLU(), nn.Linear(32, DIM, bias))
        module = HEADS[head](DIM, 10) if isinstance(head, str) else head
    return backbone, module, OPTIMIZERS[optimizer]([*backbone.parameters(), *module.parameters()])


def a_trainer(
    head,
    folder=None,
    optimizer="sgd",
    schedule="cosine",
    plain=True,
    epochs=4,
    precision="no",
    batch_size=64,
    mix=None,
    **options,
):
    """A Trainer: batches of 64, the last of an epoch with 44; the digits are moved about unless it is to be plain."""
    train, test = sets()
    on = processes.accelerator(precision)
    here, norm = processes.place(on), train.normalise()
    backbone, module, made = build(head, optimizer, plain)
    transforms = [norm] if plain else [PaddedCrop(1), norm]
    batches = Batches(train, batch_size, transforms=transforms, order="stratified", mix=mix, **here)
    clean, held_out = (Batches(part, 128, transforms=[norm], order="sequential", **here) for part in (train, test))
    name = head if isinstance(head, str) else "other"
    return trainer.Trainer(
        backbone,
        module,
        made,
        batches,
        clean,
        held_out,
        name=name,
        epochs=epochs,
        schedule=schedule,
        folder=folder,
        on=on,
        **options,
    )


def poisoned(run, epoch, step):
    """The last image of one batch is not a number; of two processes only the second sees it."""
    batches = run.train.epoch

    def bad(k):
        for i, (images, labels) in enumerate(batches(k)):
            if (k, i) == (epoch, step) and run.on.process_index == run.on.num_processes - 1:
                images[-1] = float("nan")
            yield images, labels

    run.train.epoch = bad
    return run


def message(run):
    """How a run stops."""
    try:
        run.run()
    except FloatingPointError as error:
        return str(error)


def made_up_collapse(rank, processes):
    """Collapse of one process's share of random features in float64, read in batches of 50, and the accuracy."""
    g = torch.Generator().manual_seed(0)
    z, labels = torch.randn(303, 20, generator=g, dtype=torch.float64), torch.arange(303) % 7
    head = HEADS["fixed"](20, 7).double().eval()
    shares = [
        tuple(part.tensor_split(processes)[rank] for part in batch) for batch in zip(z.split(50), labels.split(50))
    ]
    return streaming.collapse(lambda: shares, head, margins=True) | streaming.accuracy(lambda: shares, head)


def every_head(folder):
    """Train all three and leave in `folder`: losses of all steps, rows, margins and checkpoints. On any number of
    processes.

    Batches of 65: two processes have shares of 33 and 32, and 20 of the last. Then one network with batch norm and
    dropout, of which every process leaves what it has at the end and the statistics of its batch norm after two batches
    more, by itself and with the other; the collapse of made-up features, and how two
    poisoned runs stop.
    """
    for head in HEADS:
        run = a_trainer(head, f"{folder}/{head}", batch_size=65, epochs=3)
        losses = [run.losses for _ in run.each_epoch() if run.losses is not None]
        if run.on.is_main_process:
            torch.save(
                {"losses": torch.cat(losses), "rows": run.rows, "margins": torch.from_numpy(run.margins)},
                f"{folder}/{head}.pt",
            )
    run = a_trainer("standard", plain=False, epochs=2)
    run.run()
    alone = copy.deepcopy(run.backbone)
    state = copy.deepcopy(run.backbone.state_dict())
    alone.train(), run.backbone.train()
    with torch.no_grad():
        for images, labels in itertools.islice(run.train.epoch(0), 2):
            run.model(images, labels), alone(images)
    torch.save(
        {
            "statistics": (run.backbone[2].running_mean, alone[2].running_mean),
            "state": state,
            "rows": run.rows,
            "generators": run.generators.state,
            "made up": made_up_collapse(run.on.process_index, run.on.num_processes),
            "messages": [message(poisoned(a_trainer(head), 1, 2)) for head in ("standard", "implicit")],
        },
        f"{folder}/{run.on.process_index}.pt",
    )


KILLED = dict(head="implicit", plain=False, epochs=12)

if __name__ == "__main__":
    a_trainer(folder=sys.argv[1], **KILLED).run()
