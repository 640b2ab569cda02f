"""APA and AGLU, the adaptive parametric activations (Alexandridis et al. 2024), as functions and as modules.

    APA:  η(z; κ, λ) = (λ e^{−κz} + 1)^{−1/λ}        AGLU:  z · η(z; κ, λ)

κ scales and λ > 0 skews: λ = 1 gives sigmoid(κz), and AGLU with κ = λ = 1 is SiLU; λ → 0 gives the Gumbel
exp(−e^{−κz}).

With E = e^{−κz}, u = λE, q = E/(1 + u) = 1/(λ + e^{κz}) and v = λq = u/(1 + u) the derivatives are

    ∂η/∂z = κηq        ∂η/∂κ = zηq        ∂η/∂λ = η [ln(1 + u) − v]/λ² = ηq² · [ln(1 + u) − v]/v²

The bracket cancels where v is small, that is for small λ and for large κz alike; `_bracket` has it to full precision.
Only z is kept for the backward pass. All else is computed again there, which costs less than reading it from memory.
"""

import math

import torch

from labkit import checks

FLOOR = 1e-8  # the smallest λ of the modules; the errors of values and gradients are tested down to here
BLOCK = 1 << 18  # numbers in a block of an eager pass on a CPU, whose temporaries then mostly stay in the caches

# Where −κz exceeds this, E is held there and what is missing is added to ln(1 + u), which is ln λ − κz to the last
# digit
# (or so large that η is 0). Nothing overflows, and no λ that leaves η above 0 sees a difference.
LIMIT = {torch.float32: 64.0, torch.float64: 600.0}
# From this v on, ln(1 + u) − v has its digits; below, a Padé approximant of the bracket is within 1e-6 and 1e-13 of it.
CANCELS = {torch.float32: 0.2, torch.float64: 0.008}


def apa(z, kappa, lam, *, lambda_gradient="exact"):
    """η(z; κ, λ) = (λ e^{−κz} + 1)^{−1/λ} for each number in z; shape and dtype of z.

    z: floating point, any shape.
    kappa, lam: number, tensor of shape (), or of shape (C,), one for each channel, where z has shape (N, C, …); λ > 0.
    lambda_gradient: "exact", or "paper" for −(1/λ)·η/(λ + e^{κz}), study only: the supplement differentiates the base
        and forgets that the exponent depends on λ too. Its sign is opposite to that of the derivative.

    Half types are computed in float32. Differentiable any number of times (under torch.compile once, as all is there).
    Raises TypeError for z that is not floating point, ValueError for λ that is not positive and finite and for a number
    of channels that does not fit. To see λ the check waits for a GPU that holds it; the modules have none, and there is
    none under torch.compile and the transforms of torch.func.
    """
    return _activate(z, kappa, lam, False, lambda_gradient)


def aglu(z, kappa, lam, *, lambda_gradient="exact"):
    """z · η(z; κ, λ), with the arguments, result and errors of `apa`.

    "paper" is here −(z/λ)·η/(λ + e^{κz}) (Eq. 6, supplement of Alexandridis et al. 2024).
    """
    return _activate(z, kappa, lam, True, lambda_gradient)


class _Adaptive(torch.nn.Module):
    """What APA and AGLU share: κ, λ, and how λ is kept positive."""

    def __init__(self, kappa_init, lambda_init, num_channels, lambda_gradient, generator):
        super().__init__()
        checks.one_of("lambda_gradient", lambda_gradient, ("exact", "paper"))
        if num_channels is not None and not (type(num_channels) is int and num_channels > 0):
            raise ValueError(f"num_channels must be None or an integer of at least 1, got {num_channels!r}")
        self.kappa_init, self.lambda_init = _range("kappa_init", kappa_init), _range("lambda_init", lambda_init)
        if self.lambda_init[0] < 0 or self.lambda_init[1] <= 0:
            raise ValueError(f"lambda_init must be a range (low, high) with low ≥ 0 and high > 0, got {lambda_init!r}")
        self.num_channels, self.lambda_gradient = num_channels, lambda_gradient
        shape = () if num_channels is None else (num_channels,)
        self.kappa = torch.nn.Parameter(torch.empty(shape))
        self.lam = torch.nn.Parameter(torch.empty(shape))
        self.reset_parameters(generator)

    @torch.no_grad()
    def reset_parameters(self, generator=None):
        """Draw κ, then λ, afresh; on the CPU, so that a seed gives the same start on every device."""
        for parameter, (low, high) in ((self.kappa, self.kappa_init), (self.lam, self.lambda_init)):
            parameter.copy_(torch.empty(parameter.shape, device="cpu").uniform_(low, high, generator=generator))

    def forward(self, z):
        lam = _apply(_Floor, self.lam.to(_working_dtype(self.lam)))  # not in float16, where FLOOR is 0
        return _activate(z, self.kappa, lam, self.gated, self.lambda_gradient, check=False)

    def extra_repr(self):
        return (
            f"kappa_init={self.kappa_init}, lambda_init={self.lambda_init}, num_channels={self.num_channels}, "
            f"lambda_gradient={self.lambda_gradient!r}"
        )


class APA(_Adaptive):
    """η(z; κ, λ) with κ and λ learnt: parameters `kappa` and `lam` of shape (), or (num_channels,), a pair for each
    channel.

    kappa_init, lambda_init: ranges (low, high) of the uniform distributions they are drawn from (defaults: supplement,
        Table 2), by the global generator or by `generator`; low = high sets a value.
    num_channels: C of z (N, C, …), or None for one pair for all, which does better in the supplement's Table 7.
    lambda_gradient: "exact" or "paper", as for `apa`.
    inplace: ignored; timm's ResNets build their activations by act_layer(inplace=True).

    The λ used is max(lam, FLOOR). Where lam is below FLOOR its gradient passes if a descent step raises lam, and is 0
    if it
    lowers it further: lam can come back, and does not drift away.
    Raises ValueError for a range that is reversed or not finite, one of λ with low < 0 or high ≤ 0, and num_channels <
    1.
    """

    gated = False

    def __init__(
        self,
        kappa_init=(0.0, 1.0),
        lambda_init=(0.0, 1.0),
        num_channels=None,
        lambda_gradient="exact",
        *,
        generator=None,
        inplace=False,
    ):
        super().__init__(kappa_init, lambda_init, num_channels, lambda_gradient, generator)


class AGLU(_Adaptive):
    """z · η(z; κ, λ) with κ and λ learnt; as `APA` in everything but the default range of κ (supplement, Tables 2 and
    5).
    """

    gated = True

    def __init__(
        self,
        kappa_init=(1.0, 1.3),
        lambda_init=(0.0, 1.0),
        num_channels=None,
        lambda_gradient="exact",
        *,
        generator=None,
        inplace=False,
    ):
        super().__init__(kappa_init, lambda_init, num_channels, lambda_gradient, generator)


def _range(name, values):
    try:
        low, high = map(float, values)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a range (low, high), got {values!r}") from None
    if not -math.inf < low <= high < math.inf:
        raise ValueError(f"{name} must be a range (low, high) with low ≤ high, both finite, got {values!r}")
    return low, high


def _activate(z, kappa, lam, gated, lambda_gradient, check=True):
    checks.floating("z", z)
    checks.one_of("lambda_gradient", lambda_gradient, ("exact", "paper"))
    dtype = _working_dtype(z)
    given, kappa, lam = lam, _like("kappa", kappa, z, dtype), _like("lam", lam, z, dtype)
    if check and not _traced():
        for value in given.detach().flatten().tolist() if isinstance(given, torch.Tensor) else [given]:
            if not torch.finfo(dtype).tiny <= value <= torch.finfo(dtype).max:
                raise ValueError(f"lam must be positive and finite in {dtype}, got {value!r}")
    return _apply(_Activation, z, kappa, lam, gated, lambda_gradient == "paper", 1.0)


def _like(name, value, z, dtype):
    """κ or λ as a tensor that broadcasts to z: shape () or (1, C, 1, …)."""
    if not isinstance(value, torch.Tensor):
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name} must be a number or a tensor, got {type(value).__name__}")
        return torch.full((), value, dtype=dtype, device=z.device)
    value = value.to(z.device, dtype)
    if value.ndim == 0:
        return value
    if value.ndim > 1 or z.ndim < 2:
        raise ValueError(
            f"{name} must be a number, or a tensor of shape () or, for z of shape (N, C, …), (C,); "
            f"got {name} of shape {tuple(value.shape)}, z of shape {tuple(z.shape)}"
        )
    if len(value) != z.shape[1]:
        raise ValueError(f"{name} has {len(value)} channels, but z of shape {tuple(z.shape)} has {z.shape[1]}")
    return value.reshape(1, -1, *[1] * (z.ndim - 2))


def _working_dtype(tensor):
    return tensor.dtype if tensor.dtype in LIMIT else torch.float32


def _traced():
    """Whether a compiler or a transform of torch.func looks on: values are unknown then, and parts of tensors
    read-only.
    """
    # There is no public name for the second question; torch.autograd.Function.apply asks it this way.
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


class _Floor(torch.autograd.Function):
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


class _Activation(torch.autograd.Function):
    """η^power or, where gated, z · η^power; κ and λ broadcast to z and have the dtype to work in.

    power is 1, except within derivatives: those start from √η, because η can be too small for a normal number where
    z²q²·η is not.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(z, kappa, lam, gated, paper, power):
        if not _in_blocks(z):
            return _value(z, kappa, lam, gated, power)
        out = torch.empty_like(z)
        for part, *inputs in _blocks(out, z, kappa, lam):
            part.copy_(_value(*inputs, gated, power))
        return out

    @staticmethod
    def setup_context(ctx, inputs, output):
        *tensors, ctx.gated, ctx.paper, ctx.power = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx, grad):
        z, kappa, lam = ctx.saved_tensors
        needs, options = ctx.needs_input_grad[:3], (ctx.gated, ctx.paper, ctx.power)
        again = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if again or not _in_blocks(z):
            # To be differentiated again √η has to come from here: its derivative in λ would cancel if autograd composed
            # it.
            root = _Activation.apply(z.to(kappa.dtype), kappa, lam, False, False, ctx.power / 2) if again else None
            return *_gradients(grad, z, kappa, lam, needs, *options, root), None, None, None
        found = torch.empty_like(z), torch.zeros_like(kappa), torch.zeros_like(lam)
        for into_z, into_kappa, into_lam, *inputs in _blocks(*found, grad, z, kappa, lam):
            of_z, of_kappa, of_lam = _gradients(*inputs, needs, *options)
            if needs[0]:
                into_z.copy_(of_z)
            if needs[1]:
                into_kappa += of_kappa
            if needs[2]:
                into_lam += of_lam
        return *(g if need else None for g, need in zip(found, needs)), None, None, None


def _in_blocks(z):
    return z.device.type == "cpu" and z.numel() > BLOCK and not _traced()


def _blocks(first, *others):
    """Pieces of `first` of at most about BLOCK numbers, cut in its outermost dimensions, and the same pieces of the
    others.

    The others have its number of dimensions, of size 1 where they broadcast, or none.
    """
    if first.numel() <= BLOCK:
        yield first, *others
        return
    dim = max((d for d in range(first.ndim) if first.shape[d] > 1), key=first.stride)
    size = first.shape[dim]
    step = max(1, BLOCK * size // first.numel())
    for i in range(0, size, step):
        yield from _blocks(
            *(t.narrow(dim, i, min(step, size - i)) if t.ndim and t.shape[dim] > 1 else t for t in (first, *others))
        )


def _powers(z, kappa, lam):
    """E, u and ln(1 + u)."""
    exponent, limit = z * -kappa, LIMIT[kappa.dtype]
    e = torch.exp(exponent.clamp(max=limit))
    u = lam * e
    return e, u, _log1p(u) + torch.relu(exponent - limit)


def _log1p(u):
    if not (torch.compiler.is_compiling() and u.device.type == "cpu"):
        return torch.log1p(u)
    # The logarithm of what 1 + u is rounded to, and a correction for the rounding: as accurate, and quicker once
    # compiled.
    w = 1 + u
    return torch.log(w) + (u - (w - 1)) / w


def _eta(log, lam, power):
    """η^power = e^{−power·ln(1 + u)/λ}, as a power of 2: cheaper on a CPU, and as accurate, for there is a factor
    anyway.
    """
    return torch.exp2(log * (-power / math.log(2) / lam))


def _value(z, kappa, lam, gated, power):
    wide = z.to(kappa.dtype)
    eta = _eta(_powers(wide, kappa, lam)[-1], lam, power)
    return (wide * eta if gated else eta).to(z.dtype)


def _gradients(grad, z, kappa, lam, needs, gated, paper, power, root=None):
    """Gradients of z, κ and λ, None where not needed; root is √(η^power), which multiplies first and last."""
    wide = z.to(kappa.dtype)
    e, u, log = _powers(wide, kappa, lam)
    q = e / (1 + u)
    if root is None:
        root = _eta(log, lam, power / 2)
    outer = grad.to(kappa.dtype) * root
    inner = outer * wide if gated else outer
    if power != 1:
        inner = power * inner
    slope = inner * q
    of_z = of_kappa = of_lam = None
    if needs[0]:
        of_z = ((torch.addcmul(outer, slope, kappa) if gated else kappa * slope) * root).to(z.dtype)
    if needs[1]:
        of_kappa = (wide * slope * root).sum_to_size(kappa.shape)
    if needs[2]:
        factor = -1 / lam if paper else q * _bracket(log, lam * q)
        of_lam = (slope * factor * root).sum_to_size(lam.shape)
    return of_z, of_kappa, of_lam


def _bracket(log, v):
    """[ln(1 + u) − v]/v² = 1/2 + v/3 + v²/4 + … to full precision, where log is ln(1 + u) = −ln(1 − v) and 0 ≤ v <
    1.
    """
    pade = (90 + v * (v - 60)) / (180 + v * (72 * v - 240))  # of the series, numerator and denominator of degree 2
    above = v.clamp(min=CANCELS[v.dtype])
    # Each falls short of the true value where it is not accurate. (torch.where branches for each number on a CPU:
    # slow.)
    return torch.maximum(pade, (log - above) / above.square())


def _light(function):
    """The autograd function with its setup_context made part of its forward, in which form torch.func does not take
    it.
    """

    def forward(ctx, *inputs):
        out = function.forward(*inputs)
        function.setup_context(ctx, inputs, out)
        return out

    members = dict(forward=staticmethod(forward), backward=staticmethod(function.backward))
    return type(function.__name__, (torch.autograd.Function,), members)


_LIGHT = {function: _light(function) for function in (_Activation, _Floor)}


def _apply(function, *inputs):
    # Where there is a setup_context, torch looks up the signature of forward in each call: 25 µs, a lot for a small
    # layer.
    return (function if _traced() else _LIGHT[function]).apply(*inputs)


def derivatives(z, kappa, lam, gated, lambda_gradient="exact"):
    """AGLU (gated) or APA at each z (n,), and its derivatives: {"value", "z", "kappa", "lam"}, each (n,).

    By automatic differentiation through labkit; lambda_gradient as for `apa`.
    """
    # A channel for each z, so that the gradients of κ and λ come one for each z and not as a sum.
    point = [z.unsqueeze(0), torch.full_like(z, kappa), torch.full_like(z, lam)]
    point = [p.detach().requires_grad_() for p in point]
    value = (aglu if gated else apa)(*point, lambda_gradient=lambda_gradient)
    grads = torch.autograd.grad(value.sum(), point)
    return {"value": value.detach()[0], **dict(zip(("z", "kappa", "lam"), (g.reshape(-1) for g in grads)))}
