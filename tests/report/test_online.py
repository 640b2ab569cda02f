"""NeuralCollapse in torchmetrics' manner, and reports over several processes."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

import labkit
import labkit.vision
from labkit import streaming

C, D, N = 4, 6, 90


def samples():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(C, (N,), generator=g)
    return torch.randn(C, D, generator=g, dtype=torch.float64)[labels] + torch.randn(
        N, D, generator=g, dtype=torch.float64
    ), labels


def test_update_compute_reset_and_forward():
    h, y = samples()
    metric = labkit.NeuralCollapse(C)
    with pytest.raises(ValueError, match="before the first update"):
        metric.compute()
    values = metric(h[:40], y[:40])
    alone = labkit.NeuralCollapse(C)
    alone.update(h[:40], y[:40])
    assert values == alone.compute()
    metric(h[40:], y[40:])
    base = streaming.NeuralCollapse(C)
    base.update(h, y)
    found, wanted = metric.compute(), base.compute()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], rtol=1e-11, atol=1e-13)
    metric.reset()
    with pytest.raises(ValueError, match="before the first update"):
        metric.compute()


def test_a_batch_that_misses_a_class():
    h, y = samples()
    w, metric = torch.randn(C, D), labkit.NeuralCollapse(C)
    values = metric(h[y < 3], y[y < 3], weight=w)
    assert all(value.isnan() for value in values.values())
    with pytest.raises(ValueError, match=r"classes \[3\] of 4 have none"):
        metric.compute()
    metric.update(h[y == 3], y[y == 3])
    assert set(metric.compute(w)) == set(values)


def test_gradients_and_dtypes():
    h, y = samples()
    h = h.bfloat16().requires_grad_()
    metric = labkit.NeuralCollapse(C).to("cpu")
    metric.update(h, y)
    found = metric.to("cpu").compute()["nc1"]
    assert found.dtype == torch.float64 and not found.requires_grad


def test_refused():
    h, y = samples()
    metric = labkit.NeuralCollapse(C)
    with pytest.raises(ValueError, match=r"features must have shape \(N, d\), got \(1, 90, 6\)"):
        metric.update(h[None], y)
    with pytest.raises(ValueError, match="centre must be one of"):
        labkit.NeuralCollapse(C, "mean")
    with pytest.raises(RuntimeError, match="no sync"):
        metric.unsync()
    metric.update(h, y)
    metric.sync()
    with pytest.raises(RuntimeError, match="unsync"):
        metric.update(h, y)
    with pytest.raises(RuntimeError, match="unsync"):
        metric.sync()
    metric.compute()
    metric.unsync()
    metric.update(h, y)


def report(h, y, other):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(D, 8), nn.Tanh(), nn.Linear(8, C)).double()
    with_labels = list(zip(h.split(16), y.split(16))) if len(h) else []
    return labkit.collapse(model, with_labels, ["0"], ood_loader=list(other.split(16)))


def others():
    return 3 * torch.randn(50, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def work(rank, folder, weight):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    h, y = samples()
    share = slice(0, 20) if rank == 0 else slice(20, N)
    metric = labkit.NeuralCollapse(C)
    first = metric.to("cpu")
    if rank == 1:  # the other process has seen nothing yet
        first.update(h[share], y[share])
    some = first.compute(weight)
    if rank == 0:
        first.update(h[share], y[share])
    table = report(h[share], y[share], others()[rank::2]).table
    refused = None
    try:
        report(h[: 90 * rank], y, others())
    except ValueError as error:
        refused = str(error)
    torch.save(
        (some, first.compute(weight), first.compute(weight), int(first.counts.sum()), refused), f"{folder}/{rank}.pt"
    )
    table.to_pickle(f"{folder}/{rank}.pkl")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes_are_one(tmp_path):
    pytest.importorskip("torchmetrics")
    import pandas as pd

    h, y = samples()
    weight = torch.randn(C, D, generator=torch.Generator().manual_seed(2))
    torch.multiprocessing.spawn(work, args=(tmp_path, weight), nprocs=2)
    metric = labkit.NeuralCollapse(C)
    metric.update(h, y)
    wanted = metric.compute(weight)
    part = labkit.NeuralCollapse(C)
    part.update(h[20:], y[20:])
    part = part.compute(weight)
    whole = report(h, y, others()).table
    for rank, size in ((0, 20), (1, N - 20)):
        some, found, again, own, refused = torch.load(tmp_path / f"{rank}.pt")
        for name in wanted:
            torch.testing.assert_close(found[name], wanted[name], rtol=1e-10, atol=1e-13)
            torch.testing.assert_close(some[name], part[name], rtol=1e-10, atol=1e-13)
            assert torch.equal(again[name], found[name])
        assert own == size  # compute() leaves each process its own sums
        assert refused == "the loader gave no batch on processes [0]"
        pd.testing.assert_frame_equal(pd.read_pickle(tmp_path / f"{rank}.pkl"), whole, rtol=1e-9, atol=1e-12)
