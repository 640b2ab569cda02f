"""The arithmetic of the heads: logits of features on a sphere, and class sums, as autograd functions.

Composed from `Head.normalize`, a product and `class_sums`, with plain autograd, these would be a few lines (the tests
do that and compare). Written out, no pass stores several arrays of the size of the features: on a CPU a training step
costs little more than the traffic of such arrays, and the plain version took about twice as long (UFM-10).
"""

import math

import numpy as np
import torch

from labkit.metrics import class_sums, over_processes
from labkit.nearest import Once, plain

BLOCK = 1 << 20  # numbers in a block of features: 4 MB in float32, about what stays in the caches


def radius_of(z, temperature):
    """τ/‖z‖, shape (…, N, 1); 0 for a zero feature, which then stays zero and has no gradient."""
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return (temperature / norm).masked_fill(norm < 1e-12, 0.0)


class SphereLogits(torch.autograd.Function):
    """r·(z @ Wᵀ) + b with r = τ/‖z‖; z (…, N, d), W (…, C, d), b (…, C) or None. Differentiable any number of times."""

    @staticmethod
    @plain
    def forward(ctx, z, weight, bias, temperature):
        logits = (z @ weight.mT).mul_(radius_of(z, temperature))
        if bias is not None:
            logits.add_(bias.unsqueeze(-2))
        ctx.temperature = temperature
        ctx.save_for_backward(z, weight, bias, logits)
        return logits

    @staticmethod
    @plain
    def backward(ctx, grad):
        z, weight, bias, logits = ctx.saved_tensors
        radius = radius_of(z, ctx.temperature)
        scaled = grad * radius
        grad_z = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # Normalisation removes the part of the gradient along z; ⟨h, grad_h⟩ is a sum over C logits, not d
            # dimensions.
            inner = grad * (logits if bias is None else logits - bias.unsqueeze(-2))
            along = inner.sum(-1, keepdim=True) * (radius / ctx.temperature).square()
            grad_z = (scaled @ weight).addcmul_(z, along, value=-1)
        if ctx.needs_input_grad[1]:
            grad_weight = scaled.mT @ z
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum(-2)
        return grad_z, grad_weight, grad_bias, None


class ImplicitLogits(torch.autograd.Function):
    """A training step of the implicit head: features to logits through class means, nearest ETF, W and b. Moves head's
    state.

    Two paths lead back to the features (Figure 1): a direct one from the logits, and an indirect one through the class
    sums, that is through μ_G and U*. Both are added up block by block, before the normalisation is differentiated once
    for the two.

    One array of the size of z is made, for h, and becomes the gradient. With two of them, freed one soon after the
    other, the C library gave the memory back to the system, and each step of UFM-10 spent about 1 ms on 500 page faults
    to get it again.
    torch's embedding_bag sums z without h, and faster; but after it, until the cross entropy, every matrix product took
    2.5 times as long (torch 2.13 on a CPU with AVX-512).

    With several processes of torch.distributed the class sums are those of all their batches together, and the indirect
    gradient is that of the sum of all their losses: as in one process with the whole batch.
    """

    @staticmethod
    @plain
    def forward(ctx, z, targets, head):
        *batch, n, d = z.shape
        C, runs = head.num_classes, math.prod(batch)
        flat, labels = z.reshape(runs, n, d), targets.expand(*batch, n).reshape(runs, n)
        radius = radius_of(flat, head.temperature)
        ctx.room = flat * radius
        sums, counts = over_processes(*class_sums(ctx.room, labels, C))
        weight, bias, ctx.chain = head.solve(sums.reshape(*batch, C, d), counts.reshape(*batch, C))
        weight = weight.to(z.dtype).reshape(runs, C, d).contiguous()
        ctx.temperature, ctx.through_etf = head.temperature, head.backprop_through_etf
        ctx.save_for_backward(z, labels, radius, weight)
        logits = (flat @ weight.mT).mul_(radius).add_(bias.to(z.dtype).reshape(runs, 1, C))
        return logits.reshape(*batch, n, C)

    @staticmethod
    @plain
    def backward(ctx, grad):
        z, *_ = ctx.saved_tensors
        return Once.apply("ImplicitETFHead", lambda g: _implicit_vjp(ctx, g), grad, z), None, None


def _implicit_vjp(ctx, grad):
    z, labels, radius, weight = ctx.saved_tensors
    *batch, n, d = z.shape
    C, runs = grad.shape[-1], math.prod(batch)
    flat, g = z.reshape(runs, n, d), grad.reshape(runs, n, C)
    (grad_bias,) = over_processes(grad.sum(-2))
    grad_weight = None
    if ctx.through_etf:
        (grad_weight,) = over_processes(((g * radius).mT @ flat).reshape(*batch, C, d))
    grad_sums = ctx.chain(grad_weight, grad_bias).to(z.dtype).reshape(runs, C, d)
    grad_z, ctx.room = ctx.room, None
    if grad_z is None:  # a second pass back through the same graph
        grad_z = torch.empty_like(flat)
    for run, rows in _blocks(flat):
        part, r = flat[run, rows], radius[run, rows]
        out = torch.index_select(grad_sums[run], 0, labels[run, rows], out=grad_z[run, rows])
        out.addmm_(g[run, rows], weight[run])
        along = _inner(part, out) * (r / ctx.temperature).square()
        out.addcmul_(part, along, value=-1).mul_(r)
    return grad_z.reshape(*batch, n, d)


def _inner(a, b):
    """⟨a_n, b_n⟩ of the rows of a and b (N, d), shape (N, 1). On a CPU without an array a·b: see `ImplicitLogits`."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.einsum("nd,nd->n", a.numpy(), b.numpy())).unsqueeze(-1)
    return (a * b).sum(-1, keepdim=True)


def _blocks(flat):
    """(run, slice of its samples) of features (runs, N, d), with about BLOCK numbers each on a CPU and whole runs
    elsewhere.
    """
    runs, n, d = flat.shape
    step = max(1, BLOCK // d) if flat.device.type == "cpu" else n
    return [(run, slice(i, min(n, i + step))) for run in range(runs) for i in range(0, n, step)]
