"""The bigram model: the next token by the one before it, which a language model must beat to have learnt any more."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

from labkit import checks


class Bigram(nn.Module):
    """log p(next | token) from counted pairs, called as a model of transformers is: model(tokens (B, T)).logits.

    tokens: integer array (N,) of numbers below `vocabulary`. added: what is added to the count of each pair, so that no
    pair is impossible (1: Laplace's rule). With 0 each token has to be followed by one; ValueError names one that is
    not.

    >>> model = Bigram(np.array([0, 1, 0, 1, 0]), vocabulary=2)
    >>> model(torch.tensor([[0]])).logits.exp()
    tensor([[[0.2500, 0.7500]]])
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int, added: float = 1.0):
        super().__init__()
        tokens = np.asarray(tokens, np.int64)
        if len(tokens) < 2 or tokens.min() < 0 or tokens.max() >= vocabulary:
            raise ValueError(f"tokens must be two or more numbers in 0 … {vocabulary - 1}, got {len(tokens)} of them")
        checks.not_negative("added", added)
        pairs = np.bincount(tokens[:-1] * vocabulary + tokens[1:], minlength=vocabulary**2)
        counts = torch.from_numpy(pairs.reshape(vocabulary, vocabulary)).double() + added
        if len(last := (counts.sum(1) == 0).nonzero().flatten()):
            raise ValueError(f"no token follows token {int(last[0])}: nothing is known of it with added={added!r}")
        self.register_buffer("table", (counts / counts.sum(1, keepdim=True)).log().float())
        self.config = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=None)

    def forward(self, tokens: torch.Tensor) -> SimpleNamespace:
        """`.logits`: float32 (B, T, vocabulary)."""
        return SimpleNamespace(logits=self.table[tokens])

    def cross_entropy(self, tokens: np.ndarray) -> float:
        """The mean of −log p(next | token) over a text (N,), in nats a token; ValueError for fewer than two tokens, and
        for others than the model's.
        """
        tokens = torch.as_tensor(np.asarray(tokens, np.int64))
        if len(tokens) < 2:
            raise ValueError(f"a text must have two tokens or more, got {len(tokens)}")
        if tokens.min() < 0 or tokens.max() >= len(self.table):
            found = f"{int(tokens.min())} to {int(tokens.max())}"
            raise ValueError(f"tokens must be numbers in 0 … {len(self.table) - 1}, got {found}")
        return -self.table[tokens[:-1], tokens[1:]].double().mean().item()
