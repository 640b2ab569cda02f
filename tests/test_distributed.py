"""Heads that look at the whole batch on several processes: the same as on one."""

import weakref

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F

from labkit.heads import FixedETFHead, ImplicitETFHead

C, D, N, STEPS = 5, 12, 30, 3
HEADS = {
    "through the ETF": lambda: ImplicitETFHead(D, C),
    "ETF a constant": lambda: ImplicitETFHead(D, C, backprop_through_etf=False),
    "mean of the batch": lambda: FixedETFHead(D, C, bias="batch_mean"),
}


def batches():
    """STEPS batches of features and labels; the last class comes only in the last one, and then in its first half."""
    g = torch.Generator().manual_seed(0)
    for step in range(STEPS):
        targets = torch.randint(C - 1, (N,), generator=g)
        targets[: C - 1] = torch.arange(C - 1)
        if step == STEPS - 1:
            targets[C : C + 3] = C - 1
        yield torch.randn(N, D, generator=g, dtype=torch.float64), targets


def train(rank, processes, which):
    """Logits and feature gradients of this process's share of each batch, and the state at the end. Shares differ in
    size.
    """
    head = HEADS[which]().double()
    cut = [0, N] if processes == 1 else [0, N // 3, N]
    share, rows = slice(cut[rank], cut[rank + 1]), []
    for features, targets in batches():
        z = features[share].clone().requires_grad_()
        logits = head(z, targets[share])
        (F.cross_entropy(logits, targets[share], reduction="sum") / N).backward()
        rows += [logits.detach(), z.grad]
    return rows, head.state_dict()


def work(rank, folder, which):
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    group = weakref.ref(dist.group.WORLD)
    torch.save(train(rank, 2, which), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
    assert group() is None, "the head keeps hold of the process group, whose threads then outlive Python"


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="this PyTorch has no gloo")
@pytest.mark.parametrize("which", HEADS)
def test_two_processes_are_one(tmp_path, which):
    rows, state = train(0, 1, which)
    torch.multiprocessing.spawn(work, args=(tmp_path, which), nprocs=2)
    (first, first_state), (second, second_state) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for whole, *parts in zip(rows, first, second):
        torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-9, atol=1e-12)
    for name, value in state.items():
        torch.testing.assert_close(first_state[name], value, rtol=1e-10, atol=1e-12)
        assert torch.equal(first_state[name], second_state[name])
