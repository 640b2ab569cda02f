"""What a Trainer asks of an optimiser, and learning rates over time: the schedulers of torch, with a warm-up."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.optim import lr_scheduler

from labkit import checks

SCHEDULES = (None, "cosine", "cosine-by-epoch", "steps")
WARMUP = 0.01  # the share of the learning rate at which a warm-up starts


def schedule(name: str | None, optimizer: torch.optim.Optimizer, epochs: int, steps: int, warmup: int = 0):
    """The scheduler of torch for one of SCHEDULES, None for None.

    It is to be stepped after each training step, `steps` of them in an epoch, or after each epoch where `by_epoch` says
    so.

    During the first `warmup` epochs the rate rises in a straight line. "cosine" then falls along half a cosine, to 0 at
    the end; "steps" falls to a tenth after a half and to a hundredth after three quarters of all epochs.

    >>> import torch
    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.2)
    >>> moves, rates = schedule("cosine-by-epoch", optimizer, epochs=200, steps=453, warmup=3), []
    >>> for epoch in range(5):
    ...     rates.append(round(optimizer.param_groups[0]["lr"], 3))
    ...     optimizer.step(), moves.step()  # doctest: +ELLIPSIS
    (...)
    >>> rates
    [0.002, 0.068, 0.134, 0.2, 0.2]
    """
    if name is None:
        return None
    unit = 1 if by_epoch(name) else steps
    total, first = epochs * unit, warmup * unit
    if name == "steps":
        made = lr_scheduler.MultiStepLR(optimizer, [-(-total // 2) - first, -(-3 * total // 4) - first])
    else:
        made = lr_scheduler.CosineAnnealingLR(optimizer, total - first)
    if not warmup:
        return made
    rise = lr_scheduler.LinearLR(optimizer, WARMUP, total_iters=first)
    return lr_scheduler.SequentialLR(optimizer, [rise, made], [first])


def by_epoch(name: str | None) -> bool:
    """Whether a schedule moves once an epoch, as in the released code of the activation paper, and not every step."""
    return name == "cosine-by-epoch"


def check(
    optimizer: torch.optim.Optimizer, parts: Mapping[str, nn.Module], schedule: str | None, epochs: int, warmup: int
):
    """Raise ValueError for an optimiser that misses a parameter of one of the `parts` {name: module}, for a schedule or
    a warm-up that is not possible, and for a schedule where there is no learning rate."""
    checks.one_of("schedule", schedule, SCHEDULES)
    if isinstance(warmup, bool) or not isinstance(warmup, int) or not 0 <= warmup < epochs:
        raise ValueError(f"warmup must be a whole number of epochs from 0 to below {epochs}, got {warmup!r}")
    if warmup and schedule is None:
        raise ValueError(f"warmup={warmup} needs a schedule, got schedule=None")
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [
        f"{part}.{name}"
        for part, module in parts.items()
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


def described(optimizer: torch.optim.Optimizer) -> dict:
    """The name of an optimiser and the plain values of each of its groups."""
    plain = (bool, int, float, str, type(None), tuple, list)
    groups = [
        {key: value for key, value in group.items() if key != "params" and isinstance(value, plain)}
        for group in optimizer.param_groups
    ]
    return {"name": type(optimizer).__name__, "groups": groups}
