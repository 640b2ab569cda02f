"""The arithmetic of the heads in fewer passes over the features; `heads.py` has the same in its plain form.

On a CPU a training step costs little more than the traffic of arrays of the size of the features. Under plain autograd
there are about twice as many of them. Both functions can be differentiated any number of times: where a graph of the
gradient is wanted (`create_graph=True`), their backward is that of the plain formula.
"""

import math

import numpy as np
import torch

from labkit._fast.polar import full_precision

BLOCK = 1 << 20  # numbers in a block of features: 4 MB in float32, about what stays in the caches


def radius_of(z, temperature):
    """τ/‖z‖, shape (…, N, 1); 0 for a feature shorter than 1e-12, which then stays zero and has no gradient."""
    norm = torch.linalg.vector_norm(z, dim=-1, keepdim=True)
    return temperature / norm.masked_fill(norm < 1e-12, torch.inf)


class SphereLogits(torch.autograd.Function):
    """r·(z @ Wᵀ) + b of z (…, N, d), W (…, C, d), b (…, C) or None, with r = `radius_of(z, temperature)` (…, N, 1)."""

    @staticmethod
    @full_precision
    def forward(ctx, z, radius, weight, bias, temperature):
        logits = (z @ weight.mT).mul_(radius)
        if bias is not None:
            logits.add_(bias.unsqueeze(-2))
        ctx.temperature = temperature
        ctx.save_for_backward(z, radius, weight, bias, logits)
        return logits

    @staticmethod
    @full_precision
    def backward(ctx, grad):
        z, radius, weight, bias, logits = ctx.saved_tensors
        if torch.is_grad_enabled():
            plain = (z * radius_of(z, ctx.temperature)) @ weight.mT
            plain = plain if bias is None else plain + bias.unsqueeze(-2)
            inputs = [t if ask else None for t, ask in zip((z, None, weight, bias), ctx.needs_input_grad)]
            return *_again(plain, inputs, grad), None
        scaled = grad * radius
        grad_z = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            # Normalisation takes away the part of the gradient along z. ⟨h, grad_h⟩ is a sum over C logits, not over d
            # dimensions.
            inner = grad * (logits if bias is None else logits - bias.unsqueeze(-2))
            along = inner.sum(-1, keepdim=True) * (radius / ctx.temperature).square()
            grad_z = (scaled @ weight).addcmul_(z, along, value=-1)
        if ctx.needs_input_grad[2]:
            grad_weight = (scaled.mT @ z).sum_to_size(weight.shape)
        if ctx.needs_input_grad[3]:
            grad_bias = grad.sum(-2).sum_to_size(bias.shape)
        return grad_z, None, grad_weight, grad_bias, None


class SphereSums(torch.autograd.Function):
    """z as it is, for `Logits`; the sum of h = r·z over each class (…, C, d); and the number of samples in it (…, C).

    z (…, N, d), r = `radius_of(z, temperature)`, labels (…, N), of which C counts for no class. Two paths lead back to
    the features (Figure 1, Markou et al. 2024): a direct one from the logits, and an indirect one from the class sums.
    They are added up before the normalisation is differentiated once for the two: to `Logits` r is a constant. Only one
    array of the size of z is needed at a time, for h and later for the gradient.
    """

    @staticmethod
    @full_precision
    def forward(ctx, z, radius, labels, num_classes, temperature):
        *batch, n, d = z.shape
        runs, one_more = math.prod(batch), num_classes + 1
        index = labels.reshape(runs, n)
        if runs > 1:  # each run has classes of its own
            index = index + one_more * torch.arange(runs, device=z.device).unsqueeze(-1)
        index = index.reshape(-1)
        sums = z.new_zeros(runs * one_more, d).index_add_(0, index, (z * radius).reshape(-1, d))
        counts = torch.bincount(index, minlength=runs * one_more).to(z.dtype)
        sums, counts = (t.view(*batch, one_more, -1)[..., :num_classes, :] for t in (sums, counts))
        counts = counts.squeeze(-1)
        ctx.temperature = temperature
        ctx.save_for_backward(z, radius, labels)
        ctx.mark_non_differentiable(counts)
        return z.view_as(z), sums, counts

    @staticmethod
    @full_precision
    def backward(ctx, grad, grad_sums, _):
        z, radius, labels = ctx.saved_tensors
        *batch, n, d = z.shape
        of_class = torch.nn.functional.pad(grad_sums, (0, 0, 0, 1)).reshape(-1, grad_sums.shape[-2] + 1, d)
        labels = labels.reshape(-1, n)
        batched = any(map(torch._C._functorch.is_legacy_batchedtensor, (grad, grad_sums)))  # with is_grads_batched
        if torch.is_grad_enabled() or batched:
            indirect = torch.stack([rows[label] for rows, label in zip(of_class, labels)]).view(z.shape)
            if not torch.is_grad_enabled():
                out = grad + indirect * radius
                along = (z * out).sum(-1, keepdim=True) * (radius / ctx.temperature).square()
                return out - z * along, None, None, None, None
            grad_h = grad / radius.masked_fill(radius == 0, 1) + indirect
            return *_again(z * radius_of(z, ctx.temperature), [z], grad_h), None, None, None, None
        # grad was made for this call alone, by `Logits`, so that it can become the result.
        flat, grad, radius = (t.reshape(-1, n, t.shape[-1]) for t in (z, grad, radius))
        for run, rows in _blocks(flat):
            part, out, r = flat[run, rows], grad[run, rows], radius[run, rows]
            out.addcmul_(of_class[run].index_select(0, labels[run, rows]), r)
            out.addcmul_(part, _inner(part, out) * (r / ctx.temperature).square(), value=-1)
        return grad.view(z.shape), None, None, None, None


class Logits(torch.autograd.Function):
    """r·(z @ Wᵀ) + b, with r a constant."""

    @staticmethod
    @full_precision
    def forward(ctx, z, radius, weight, bias):
        ctx.save_for_backward(z, radius, weight)
        return (z @ weight.mT).mul_(radius).add_(bias.unsqueeze(-2))

    @staticmethod
    @full_precision
    def backward(ctx, grad):
        z, radius, weight = ctx.saved_tensors
        scaled = grad * radius
        grad_weight = scaled.mT @ z if ctx.needs_input_grad[2] else None
        return scaled @ weight, None, grad_weight, grad.sum(-2)


def _again(output, inputs, grad):
    """The gradient of an output with respect to those inputs that are not None, to be differentiated once more."""
    wanted = [t for t in inputs if t is not None]
    found = iter(torch.autograd.grad(output, wanted, grad, create_graph=True))
    return [None if t is None else next(found) for t in inputs]


def _inner(a, b):
    """⟨a_n, b_n⟩ of the rows of a and b (N, d), shape (N, 1); on a CPU without making the array a·b."""
    if a.device.type == "cpu":
        return torch.from_numpy(np.einsum("nd,nd->n", a.numpy(), b.numpy())).unsqueeze(-1)
    return (a * b).sum(-1, keepdim=True)


def _blocks(z):
    """(run, slice of its samples) of features (S, N, d): about BLOCK numbers each on a CPU, whole runs elsewhere."""
    runs, n, d = z.shape
    step = max(1, BLOCK // d) if z.device.type == "cpu" else n
    return [(run, slice(i, min(n, i + step))) for run in range(runs) for i in range(0, n, step)]
