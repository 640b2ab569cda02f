"""What the implicit head carries from step to step: its running class means, and steps of several calls."""

import contextlib

import torch
from torch import nn

from labkit import checks
from labkit._fast import polar
from labkit._head import move
from labkit._head.rows import wide


class ClassMeans(nn.Module):
    """Running average of the centred class means (Eq. 9), kept before normalisation as the released code does.

        H̄_t = α_t H̄_batch + (1 − α_t) H̄_{t−1},   α_t = max(2/(t+1), 1e-4), or a constant alpha in (0, 1]

    Gradient flows through the current batch only. A class not in the batch keeps its average; one never seen has a
    centred mean of zero, and takes the batch's mean as it is when it first appears. Buffers: means (…, d, C),
    global_mean (…, d), of the last batch alone where `last` is set, seen (…, C), step.

    >>> sums, counts = torch.tensor([[4.0, 0.0], [0.0, 0.0]]), torch.tensor([2, 2])
    >>> ClassMeans(dim=2, num_classes=2)(sums, counts)[0].tolist()
    [[1.0, -1.0], [0.0, 0.0]]
    """

    def __init__(
        self, dim: int, num_classes: int, batch_shape: tuple = (), alpha: float | None = None, last: bool = False
    ):
        super().__init__()
        if alpha is not None:
            checks.positive("alpha", alpha)
            if alpha > 1:
                raise ValueError(f"alpha must be at most 1, got {alpha!r}")
        self.alpha, self.last = alpha, last
        self.register_buffer("means", torch.zeros(*batch_shape, dim, num_classes, dtype=wide()))
        self.register_buffer("global_mean", torch.zeros(*batch_shape, dim, dtype=wide()))
        # 0 or 1; a number, since averages of models subtract buffers, and PyTorch subtracts no truth values
        self.register_buffer("seen", torch.zeros(*batch_shape, num_classes, dtype=wide()))
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, sums: torch.Tensor, counts: torch.Tensor):
        """Take in class sums (…, C, d) and counts (…, C): the new average (…, d, C), the batch's global mean (…, d)."""
        step = self.step + 1
        alpha = float(self.alpha) if self.alpha else (2 / (step + 1).double()).clamp(min=1e-4)
        present, seen = counts > 0, self.seen > 0
        global_mean = sums.sum(-2) / counts.sum(-1, keepdim=True)
        batch = sums / counts.masked_fill(~present, 1).unsqueeze(-1) - global_mean.unsqueeze(-2)
        # α_t; 1 for a class that is new, 0 for one that is not in the batch
        weight = present * (1 - (1 - alpha) * seen.to(sums.dtype))
        means = torch.lerp(self.means.to(sums.dtype), batch.mT, weight.unsqueeze(-2))
        average = self.global_mean.to(sums.dtype)
        first = ~seen.any(-1, keepdim=True)  # counts in full, as the first of each class does
        average = average + (1.0 if self.last else torch.where(first, 1.0, alpha)) * (global_mean.detach() - average)
        move(self, means=means.detach(), global_mean=average, seen=seen | present, step=step)
        return means, global_mean


class Steps:
    """For heads whose training moves a state: one step for a call, or for several that are gathered."""

    _begun, _gathering = None, False

    def _begin(self, sums, counts, state):
        """The class sums and counts that a step takes in: of a call, and of those gathered before it.

        A step begins with a call outside `gather`, or the first one inside. Another call of the same step, or one
        during a backward pass, which is one that torch.utils.checkpoint makes again, finds the state, a list of
        tensors, as it was when the step began. A compiled step is one call, which `gather` cannot see.

        Raises ValueError for sums that are not finite and for runs without a label, before anything moves.
        """
        if polar.transformed():
            if self._gathering:
                raise RuntimeError("gather() is for heads that are not compiled: compile the network before the head")
            return sums, counts
        try:
            checks.finite("features", sums)
        except checks.NotFinite:  # whose counts would be those of the sums
            raise checks.NotFinite("features must be finite, but some are NaN or infinite") from None
        again = torch._C._current_graph_task_id() != -1
        begun = bool(self._begun) and (again or self._gathering)
        if begun:
            before, earlier, last = self._begun
            if not again:
                earlier = last if earlier is None else tuple(a + b for a, b in zip(earlier, last))
            elif not torch.allclose(sums, last[0], rtol=1e-3, atol=1e-3 * self.num_classes):
                raise RuntimeError("only the last call of an implicit head can be computed again by a checkpoint")
        else:
            before, earlier = [tensor.clone() for tensor in state], None
        whole = (sums, counts) if earlier is None else (sums + earlier[0], counts + earlier[1])
        if not bool(whole[1].sum(-1).all()):
            raise ValueError("targets must hold a label of every run, got a run whose labels are all ignored")
        if begun:
            for tensor, value in zip(state, before):
                tensor.copy_(value)
        self._begun = before, earlier, (sums.detach(), counts.detach())
        return whole

    @contextlib.contextmanager
    def gather(self):
        """Calls inside count as one step, with the samples of all of them: micro-batches of one step of the optimiser.

        The k-th call uses the class means of the first k micro-batches, with the gradient through its own samples; the
        state at the end is that of one call with all.

        >>> from labkit import heads
        >>> head, z, labels = heads.ImplicitETFHead(8, 4), torch.randn(20, 8), torch.arange(20) % 4
        >>> with head.gather():
        ...     for part in range(2):
        ...         logits = head(z[10 * part :][:10], labels[10 * part :][:10])
        >>> int(head.class_means.step)
        1
        """
        self._begun, self._gathering = None, True
        try:
            yield self
        finally:
            self._gathering = False
