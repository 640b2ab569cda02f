"""The arithmetic of APA and AGLU (formulas and letters: see `activations`), in two forms.

The plain form is what compilers, torch.func, GPUs and second derivatives take. On a CPU each of its passes would write
a new array, and take longer to get the memory than to compute. There the second form takes the numbers through all
passes block by block, in arrays that are used again. Tests hold the two equal.
"""

import math
from collections.abc import Iterator

import torch

# --- the plain form -----------------------------------------------------------------------------------------------

# Where −κz exceeds this, E is held there and what is missing is added to s = ln(1 + u), which is ln λ − κz to the last
# digit (or so large that η is 0). Nothing overflows, and no λ that leaves η above 0 sees a difference.
LIMIT = {torch.float32: 64.0, torch.float64: 600.0}
# From this v on, s − v has its digits; below, a Padé approximant of the bracket is within 1e-6 and 1e-13 of it.
CANCELS = {torch.float32: 0.2, torch.float64: 0.008}


def value(z: torch.Tensor, kappa: torch.Tensor, lam: torch.Tensor, gated: bool, power: float) -> torch.Tensor:
    """η^power or, where gated, z·η^power. κ and λ broadcast to z and have the dtype to work in."""
    wide = z.to(kappa.dtype)
    eta = _eta(_powers(wide, kappa, lam)[-1], lam, power)
    return (wide * eta if gated else eta).to(z.dtype)


def gradients(grad, z, kappa, lam, needs, gated: bool, paper: bool, power: float, root=None) -> tuple:
    """Gradients of z, κ and λ, None where not needed; root is √(η^power), which multiplies first and last."""
    wide = z.to(kappa.dtype)
    e, u, s = _powers(wide, kappa, lam)
    q = e / (1 + u)
    if root is None:
        root = _eta(s, lam, power / 2)
    outer = grad.to(kappa.dtype) * root
    slope = power * (outer * wide if gated else outer) * q
    of_z = of_kappa = of_lam = None
    if needs[0]:
        of_z = ((outer + slope * kappa if gated else kappa * slope) * root).to(z.dtype)
    if needs[1]:
        of_kappa = (wide * slope * root).sum_to_size(kappa.shape)
    if needs[2]:
        factor = -1 / lam if paper else q * _bracket(s, lam * q)
        of_lam = (slope * factor * root).sum_to_size(lam.shape)
    return of_z, of_kappa, of_lam


def _bracket(s, v):
    """(s − v)/v² = 1/2 + v/3 + v²/4 + … to full precision, where s = −ln(1 − v) and 0 ≤ v < 1."""
    pade = (90 + v * (v - 60)) / (180 + v * (72 * v - 240))  # of the series, numerator and denominator of degree 2
    above = v.clamp(min=CANCELS[v.dtype])
    return torch.maximum(pade, (s - above) / above.square())  # each falls short where it is not accurate


def _powers(z, kappa, lam):
    """E, u and s."""
    exponent, limit = z * -kappa, LIMIT[kappa.dtype]
    e = torch.exp(exponent.clamp(max=limit))
    u = lam * e
    return e, u, _log1p(u) + torch.relu(exponent - limit)


def _log1p(u):
    if not (torch.compiler.is_compiling() and u.device.type == "cpu"):
        return torch.log1p(u)
    # The logarithm of what 1 + u is rounded to, and a correction for that: as accurate, and quicker once compiled.
    w = 1 + u
    return torch.log(w) + (u - (w - 1)) / w


def _eta(s, lam, power):
    return torch.exp2(s * (-power / math.log(2) / lam))  # on a CPU a power of 2 is cheaper than one of e


# --- block by block -----------------------------------------------------------------------------------------------

BLOCK = 1 << 16  # numbers: enough for two threads (torch gives none less than 2^15), and few enough for the caches
SHIFT = 40.0  # gradients start from 2^40·η, as η can be too small for a normal number where z²q²·η is not

# E = 2^x is computed as it is for x between the first two: below, λE would be no normal number; above, it could
# overflow. The next two bound λ: beyond, η is what it is there to the last digit. The last: what rounding takes of s/v.
RANGES = {torch.float32: (-96.0, 64.0, 1e-9, 1e18, 6e-7), torch.float64: (-900.0, 900.0, 1e-18, 1e18, 2e-15)}

# As a tensor a number that meets an array costs less in a call.
ZERO, ONE, TWELVE, SHIFTED, BACK = (
    {dtype: torch.tensor(x, dtype=dtype) for dtype in RANGES} for x in (0.0, 1.0, 12.0, SHIFT, 2.0**-SHIFT)
)
START = {dtype: torch.tensor(-2 * (1 + RANGES[dtype][-1]), dtype=dtype) for dtype in RANGES}


def value_by_blocks(z: torch.Tensor, kappa: torch.Tensor, lam: torch.Tensor, gated: bool) -> torch.Tensor:
    """As `value` with power 1, for z that is not empty."""
    flat, restored = _layout(z, kappa, lam)
    flat_z = flat(z)
    out = torch.empty_like(flat_z)
    for (e, s), out_b, z_b, _, slope, lam_b, rate in _blocks(2, kappa.dtype, out, flat_z, *_constants(kappa, lam)):
        z_b = z_b.to(kappa.dtype)
        _powers_into(z_b, slope, lam_b, e, s, s)
        eta = torch.exp2(_times(s, rate, s), out=s)
        torch.mul(eta, z_b, out=out_b) if gated else out_b.copy_(eta)
    return restored(out)


def gradients_by_blocks(grad, z, kappa, lam, needs, gated: bool, paper: bool) -> tuple:
    """As `gradients` with power 1, for z that is not empty."""
    dtype = kappa.dtype
    flat, restored = _layout(z, kappa, lam)
    flat_z = flat(z)
    of_z, of_kappa, of_lam = torch.empty_like(flat_z), torch.zeros_like(kappa), torch.zeros_like(lam)
    sums = _per_channel(of_kappa), _per_channel(of_lam)
    for (q, u, s, p, w), of_z_b, of_kappa_b, of_lam_b, z_b, grad_b, kappa_b, slope, lam_b, rate in _blocks(
        5, dtype, of_z, *sums, flat_z, flat(grad), *_constants(kappa, lam)
    ):
        z_b = z_b.to(dtype)
        _powers_into(z_b, slope, lam_b, q, u, s)
        q.div_(u.add_(ONE[dtype]))
        torch.exp2(_plus(SHIFTED[dtype], s, rate, p), out=p).mul_(grad_b)  # η times what came back to it
        torch.mul(torch.mul(p, z_b, out=w) if gated else p, q, out=w)
        if needs[0]:  # for AGLU p + κw, for APA κw
            torch.mul(_plus(p, w, kappa_b, u) if gated else _times(w, kappa_b, u), BACK[dtype], out=of_z_b)
        if needs[1]:
            _add_sum(of_kappa_b, w, z_b, u)
        if needs[2] and paper:
            _add_sum(of_lam_b, w, u.fill_(-2), u)
        elif needs[2]:
            # (s − v)/v = max(s·R, s/v − 1), where R = 1/2 + s/12 − s³/720 + … is 1/2 + s/(12 + s²/5), to 1e-6 or 1e-13
            # as long as the other loses its digits. Each falls short where it is not accurate.
            torch.div(s, torch.addcmul(TWELVE[dtype], s, s, value=0.2, out=u), out=u)
            torch.addcmul(s, s, u, value=2, out=u)
            _plus(START[dtype], torch.div(s, q, out=s), 2 / lam_b, p)
            _add_sum(of_lam_b, w, torch.maximum(u, p, out=u), u)
    of_kappa.mul_(BACK[dtype])
    of_lam.div_(lam * 2 ** (SHIFT + 1))
    return tuple(g if need else None for g, need in zip((restored(of_z), of_kappa, of_lam), needs))


def _powers_into(z, slope, lam, e, u, s):
    """Write E, u and s; u and s may be one array."""
    low, high, *_ = RANGES[z.dtype]
    least, most = torch.aminmax(_times(z, slope, e))
    outside = not (low <= least.item() and most.item() <= high)
    if outside:
        beyond = torch.relu(e - high).mul_(math.log(2))
        e.clamp_(low, high)
    torch.log1p(_times(torch.exp2(e, out=e), lam, u), out=s)
    if outside:
        s.add_(beyond)  # to ln u, which s is to the last digit


def _times(array, factor, out):
    """array · factor, a number (which costs the least in a call as `alpha`) or a tensor with one for each channel."""
    if isinstance(factor, float):
        return torch.add(ZERO[array.dtype], array, alpha=factor, out=out)
    return torch.mul(array, factor, out=out)


def _plus(start, array, factor, out):
    """start + array · factor."""
    if isinstance(factor, float):
        return torch.add(start, array, alpha=factor, out=out)
    if start.ndim == 0:  # addcmul with two of other shapes takes each number by itself
        return torch.mul(array, factor, out=out).add_(start)
    return torch.addcmul(start, array, factor, out=out)


def _add_sum(total, a, b, room):
    """Add the sum of a·b, or that of each channel, to total."""
    if total.ndim:
        total += torch.mul(a, b, out=room).sum((0, 2), keepdim=True)
    else:
        total += torch.dot(a, b) if a.ndim == 1 else torch.dot(a.view(-1), b.view(-1))


def _per_channel(t):
    return t.view(1, -1, 1) if t.ndim else t


def _constants(kappa, lam):
    """κ, −κ/ln 2, λ and −1/(λ ln 2): numbers, or tensors of which one at least has shape (1, C, 1)."""
    least, most = RANGES[lam.dtype][2:4]
    if kappa.ndim or lam.ndim:
        kappa, lam = _per_channel(kappa), _per_channel(lam).clamp(least, most)
    else:
        kappa, lam = kappa.item(), min(max(lam.item(), least), most)
    return kappa, kappa * (-1 / math.log(2)), lam, (-1 / math.log(2)) / lam


def _layout(z, kappa, lam):
    """Two functions: one takes a tensor of z's shape to (numbers,) or (before, C, after), with the numbers in the order
    of z's memory; the other takes a new one of these to z's shape.
    """
    per_channel = kappa.ndim or lam.ndim
    if z.is_contiguous():
        shape = (-1, z.shape[1], math.prod(z.shape[2:])) if per_channel else (-1,)
        return lambda t: t.reshape(shape), lambda t: t.view(z.shape)
    order = sorted(range(z.ndim), key=z.stride, reverse=True)
    sizes, at = [z.shape[d] for d in order], order.index(1) if per_channel else 0
    shape = (math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])) if per_channel else (-1,)
    inverse = sorted(range(z.ndim), key=order.__getitem__)
    return lambda t: t.permute(order).reshape(shape), lambda t: t.view(sizes).permute(inverse)


def _blocks(count: int, dtype: torch.dtype, first, *others) -> Iterator[tuple]:
    """Pieces of `first` (contiguous) of at most BLOCK numbers and the same pieces of the others (numbers, or tensors of
    size 1 or no dimension where they broadcast); before each, `count` arrays of its shape to work in.

    The arrays are new in each call, since calls come from several threads.
    """
    if first.numel() <= BLOCK:
        yield torch.empty(count, *first.shape, dtype=dtype).unbind(), first, *others
        return
    room = torch.empty(count, BLOCK, dtype=dtype)
    for piece, *rest in _cut(first, *others):
        yield room[:, : piece.numel()].view(count, *piece.shape).unbind(), piece, *rest


def _cut(first, *others):
    if first.numel() <= BLOCK:
        yield first, *others
        return
    dim, size = next((d, size) for d, size in enumerate(first.shape) if size > 1)
    step = -(-size // -(-first.numel() // BLOCK))  # so that the pieces are of one size
    for i in range(0, size, step):
        n = min(step, size - i)
        yield from _cut(*(t.narrow(dim, i, n) if _long(t, dim) else t for t in (first, *others)))


def _long(t, dim):
    return isinstance(t, torch.Tensor) and t.ndim > dim and t.shape[dim] > 1
