"""APA and AGLU as steps of autograd. The arithmetic is in `adaptive`."""

from numbers import Real

import torch

from labkit import checks
from labkit._fast import adaptive

FLOOR = 1e-8  # the smallest λ of the modules; the errors of values and gradients are tested down to here


def activate(z: torch.Tensor, kappa: torch.Tensor, lam: torch.Tensor, gated: bool, paper: bool) -> torch.Tensor:
    """η or, where gated, z·η; κ and λ have shape () or (C,) and the dtype to work in."""
    if plain(z):
        return ByBlocks.apply(z, kappa, lam, gated, paper)
    kappa, lam = along(kappa, z), along(lam, z)
    if torch.jit.is_tracing():  # which could not save an autograd.Function; its derivatives are those of the formula
        return Activation.forward(z, kappa, lam, gated, paper, 1.0)
    return Activation.apply(z, kappa, lam, gated, paper, 1.0)


def checked(z, kappa, lam, gated, lambda_gradient, check=True, channel_dim=1, given_as=None):
    """`activate` with arguments as the public functions take them; check: whether to look at the values of λ.

    given_as: the shape of z that errors name, where its channels have been moved.
    """
    checks.floating("z", z)
    checks.one_of("channel_dim", channel_dim, (1, -1))
    if channel_dim == -1 and z.ndim > 2:
        moved = checked(z.movedim(-1, 1), kappa, lam, gated, lambda_gradient, check, given_as=tuple(z.shape))
        return moved.movedim(1, -1)
    checks.one_of("lambda_gradient", lambda_gradient, ("exact", "paper"))
    dtype = working_dtype(z)
    given, kappa, lam = lam, like("kappa", kappa, z, dtype, given_as), like("lam", lam, z, dtype, given_as)
    if check and not traced():
        values = given.tolist() if hasattr(given, "tolist") else given  # of torch or NumPy
        limits = torch.finfo(dtype)
        least, most = limits.tiny, limits.max
        for value in values if isinstance(values, list) else [values]:
            if not least <= value <= most:
                raise ValueError(f"lam must be positive and finite in {dtype}, got {value!r}")
    return activate(z, kappa, lam, gated, lambda_gradient == "paper")


def like(name, value, z, dtype, given_as=None):
    """κ or λ as a tensor of shape () or (C,), once it is known to fit z."""
    if not isinstance(value, torch.Tensor):
        if isinstance(value, bool) or not isinstance(value, Real):
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
        return torch.full((), value, dtype=dtype, device=z.device)
    value = value.to(z.device, dtype)
    if value.ndim == 0:
        return value
    shape = tuple(z.shape) if given_as is None else given_as
    if value.ndim > 1 or z.ndim < 2:
        raise ValueError(
            f"{name} must be a number, or a tensor of shape () or, for z of shape "
            f"{'(N, C, …)' if given_as is None else '(N, …, C)'}, (C,); "
            f"got {name} of shape {tuple(value.shape)}, z of shape {shape}"
        )
    if not torch.jit.is_tracing() and len(value) != z.shape[1]:
        raise ValueError(f"{name} has {len(value)} channels, but z of shape {shape} has {z.shape[1]}")
    return value


def along(value, z):
    """κ or λ so that it broadcasts to z: shape () or (1, C, 1, …)."""
    return value.reshape(1, -1, *[1] * (z.ndim - 2)) if value.ndim else value


def working_dtype(tensor):
    return tensor.dtype if tensor.dtype == torch.float64 else torch.float32


def floor(lam: torch.Tensor) -> torch.Tensor:
    """max(λ, FLOOR), with a gradient that is one-sided below FLOOR."""
    return Floor.forward(lam) if torch.jit.is_tracing() else Floor.apply(lam)


def traced():
    """Whether a compiler or a transform of torch.func looks on: then no value is known, and no memory is used again."""
    # There is no public name for the second question; torch.autograd.Function.apply asks it this way.
    compiled = torch.compiler.is_compiling() or torch.jit.is_tracing()
    return compiled or torch._C._are_functorch_transforms_active()


class Floor(torch.autograd.Function):
    """max(λ, FLOOR) with a gradient that is one-sided below FLOOR."""

    generate_vmap_rule = True

    @staticmethod
    def forward(lam):
        return lam.clamp(min=FLOOR)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (lam,) = ctx.saved_tensors
        return grad.masked_fill((lam < FLOOR) & (grad > 0), 0)


class Activation(torch.autograd.Function):
    """η^power or, where gated, z · η^power; κ and λ broadcast to z and have the dtype to work in.

    power is 1, except within derivatives: those start from √η, because η can be too small for a normal number where
    z²q²·η is not.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z, kappa, lam, gated, paper, power):
        return adaptive.value(z, kappa, lam, gated, power)

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.gated, ctx.paper, ctx.power = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        found = slopes(grad, *ctx.saved_tensors, ctx.needs_input_grad[:3], ctx.gated, ctx.paper, ctx.power)
        return *found, None, None, None


def slopes(grad, z, kappa, lam, needs, gated, paper, power):
    """The gradients of z, κ and λ as torch operations, which can be differentiated again."""
    again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    # To be differentiated again √η has to come from here: autograd's derivative of it in λ would cancel.
    root = Activation.apply(z.to(kappa.dtype), kappa, lam, False, False, power / 2) if again else None
    return adaptive.gradients(grad, z, kappa, lam, needs, gated, paper, power, root)


class ByBlocks(torch.autograd.Function):
    """Activation with power 1, of a plain tensor on a CPU where nothing looks on, with κ and λ of shape () or (C,).

    Quicker by far. Without a setup_context: where there is one, each call looks up the signature of forward, 25 µs.
    """

    @staticmethod
    def forward(ctx, z, kappa, lam, gated, paper):
        ctx.constants = adaptive.constants(z, along(kappa, z), along(lam, z))
        out, ctx.held, kept = adaptive.value_by_blocks(z, kappa.dtype, ctx.constants, gated, any(ctx.needs_input_grad))
        ctx.save_for_backward(z, kappa, lam, kept)
        ctx.gated, ctx.paper = gated, paper
        return out

    @staticmethod
    def backward(ctx, grad):
        z, kappa, lam, kept = ctx.saved_tensors
        needs, gated, paper = ctx.needs_input_grad[:3], ctx.gated, ctx.paper
        if torch.is_grad_enabled() or not plain(grad):
            found = slopes(grad, z, along(kappa, z), along(lam, z), needs, gated, paper, 1.0)
        else:
            found = adaptive.gradients_by_blocks(
                grad, z, kappa.dtype, ctx.constants, needs, gated, paper, ctx.held, kept
            )
        of_z, *others = found
        return of_z, *(g if g is None else g.view_as(t) for g, t in zip(others, (kappa, lam))), None, None


def plain(tensor):
    """Whether numbers can be computed block by block: those of a plain tensor on a CPU, where nothing looks on."""
    if traced() or torch._C._functorch.is_legacy_batchedtensor(tensor):  # the second with is_grads_batched
        return False
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" and tensor.numel() > 0
