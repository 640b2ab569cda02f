"""The numbers of a tensor in the order of its memory, with or without its channels."""

import math

import torch


def layout(z, constants):
    """Two functions: one takes a tensor of z's shape to (numbers,) or (before, C, after), with the numbers in the order
    of z's memory; the other takes a new one of these to z's shape. And the constants to go with them.
    """
    per_channel = isinstance(constants[0], torch.Tensor)
    if per_channel:
        constants = [t.view(1, -1, 1) if t.ndim else t for t in constants]
    if z.is_contiguous():
        shape = (-1, z.shape[1], math.prod(z.shape[2:])) if per_channel else (-1,)
        return lambda t: t.reshape(shape), lambda t: t.view(z.shape), constants
    order = sorted(range(z.ndim), key=z.stride, reverse=True)
    sizes, at = [z.shape[d] for d in order], order.index(1) if per_channel else 0
    shape = (math.prod(sizes[:at]), sizes[at], math.prod(sizes[at + 1 :])) if per_channel else (-1,)
    inverse = sorted(range(z.ndim), key=order.__getitem__)
    return lambda t: t.permute(order).reshape(shape), lambda t: t.view(sizes).permute(inverse), constants
