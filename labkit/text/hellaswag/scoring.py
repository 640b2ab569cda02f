"""What a language model makes of HellaSwag's tasks: its loss on every ending, and which ending that chooses."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn
from tqdm import tqdm

from labkit.text.corpora import Bytes
from labkit.text.gpt import import_transformers
from labkit.text.hellaswag.tasks import Tasks


@dataclass(frozen=True)
class Score:
    """What a model made of HellaSwag.

    losses: float64 (tasks, 4), the sum of −log p over the tokens of each ending, in nats. tokens: int64 (tasks, 4).
    labels: int64 (tasks,). cut: endings before which the model could not see the whole context.
    """

    losses: np.ndarray
    tokens: np.ndarray
    labels: np.ndarray
    prompt: str
    cut: int = field(default=0)

    def chosen(self, by: str) -> np.ndarray:
        """The ending chosen by "mean" or by "sum", int64 (tasks,); the first of equals."""
        return {"mean": self.losses / self.tokens, "sum": self.losses}[by].argmin(1)

    def right(self, by: str) -> int:
        """How many tasks are answered rightly."""
        return int((self.chosen(by) == self.labels).sum())

    def table(self) -> pd.DataFrame:
        """A row for "mean" and for "sum": accuracy, its 95 % interval low … high (Wilson 1927), tasks, cut, prompt.

        The interval is for the choice of tasks, not for that of a seed.
        """
        n = len(self.labels)
        counts = {by: self.right(by) for by in ("mean", "sum")}
        rows = [(by, right / n, *wilson(right, n), n, self.cut, self.prompt) for by, right in counts.items()]
        return pd.DataFrame(rows, columns=["by", "accuracy", "low", "high", "tasks", "cut", "prompt"])

    def __str__(self) -> str:
        lines = [f"{r.by:4} {r.accuracy:.2%} [{r.low:.2%}, {r.high:.2%}]" for r in self.table().itertuples()]
        cut = f"; {self.cut} endings with a context cut to the model's length" if self.cut else ""
        return "\n".join([f"HellaSwag, {len(self.labels)} tasks; prompt: {self.prompt}{cut}", *lines])


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """The interval of Wilson (1927) for a share of `right` out of `n`.

    >>> [round(end, 4) for end in wilson(25, 100)]
    [0.1755, 0.343]
    """
    middle, half = right + z**2 / 2, z * math.sqrt(right * (n - right) / n + z**2 / 4)
    return (middle - half) / (n + z**2), (middle + half) / (n + z**2)


def tokenizer(name: str | Path):
    """Something with encode(text) -> tokens: "bytes"; a folder with the files of a tokenizer of transformers (GPT-2's
    BPE: vocab.json and merges.txt); or a name on the Hugging Face hub, such as "gpt2", where there is a network.
    """
    if name == "bytes":
        return Bytes()
    transformers = import_transformers()
    folder = Path(name)
    if (folder / "merges.txt").is_file() and (folder / "vocab.json").is_file():
        return transformers.GPT2TokenizerFast.from_pretrained(folder, local_files_only=True)
    try:
        return transformers.AutoTokenizer.from_pretrained(name, local_files_only=folder.is_dir())
    except (OSError, ValueError) as error:
        raise ValueError(
            f'no tokenizer {str(name)!r}: it must be "bytes", a folder with the files of a tokenizer (vocab.json and '
            f"merges.txt for GPT-2's), or a name on the Hugging Face hub, for which a network is needed ({error})"
        ) from error


@torch.no_grad()
def score(
    model: nn.Module,
    tokenizer: Any,
    tasks: Tasks,
    *,
    batch_tokens: int = 4096,
    device: str | torch.device = "cpu",
    progress: bool = False,
) -> Score:
    """Score a causal model, whose model(tokens (B, T)).logits are (B, T, vocabulary); it is put into evaluation mode.

    tokenizer: with encode(text), of `tokenizer`, of transformers or of tiktoken. Context and blank + ending are encoded
        separately, as in build-nanogpt. No token is put before the context.
    batch_tokens: tokens of a batch, padding included.
    Where context and ending together are too long for the model's positions, the context loses its beginning; and an
    ending longer than half the positions is taken in pieces, each seen after what comes before it. `Score.cut` counts
    both.
    Raises ValueError for tokens that the model's vocabulary does not have, and FloatingPointError for losses that are
    not finite.
    """
    if not len(tasks):
        raise ValueError("there must be at least one task, got none")
    model.eval()
    encode = _encoder(tokenizer)
    positions, vocabulary = model.config.max_position_embeddings, model.config.vocab_size
    rows, tokens, cut = [], np.zeros((len(tasks), 4), np.int64), 0  # a row: number of its ending, ids, how many count
    for i, task in enumerate(tasks.tasks):
        context = encode(task.context)
        if not context:
            raise ValueError(f"the context of task {i} has no tokens, and an ending needs one before it")
        for j, ending in enumerate(task.endings):
            ids = encode(" " + ending)
            tokens[i, j] = len(ids)
            pieces = _windows(context, ids, positions)
            cut += len(pieces) > 1 or len(pieces[0][0]) < len(context) + len(ids)
            rows += [(4 * i + j, *piece) for piece in pieces]
    largest, smallest = max(max(ids) for _, ids, _ in rows), min(min(ids) for _, ids, _ in rows)
    if smallest < 0 or largest >= vocabulary:
        raise ValueError(f"the tokenizer gives tokens up to {largest}, but the model has only {vocabulary}")
    losses = np.zeros(4 * len(tasks))
    with tqdm(total=len(rows), desc="HellaSwag", unit="ending", disable=not progress, mininterval=0.5) as bar:
        for batch in _batches(rows, batch_tokens):
            owners, found = _losses(model, batch, device)
            np.add.at(losses, owners, found)
            bar.update(len(batch))
    if not np.isfinite(losses).all():
        raise FloatingPointError(f"{int((~np.isfinite(losses)).sum())} of {losses.size} endings have no finite loss")
    labels = np.array([task.label for task in tasks.tasks])
    return Score(losses.reshape(-1, 4), tokens, labels, tasks.prompt, cut)


def _windows(context: list[int], ending: list[int], positions: int | None) -> list[tuple[list[int], int]]:
    """What the model is shown for one ending, as (ids, how many at their end count); all of the ending counts once."""
    ids, left = context + ending, len(ending)
    if positions is None or len(ids) <= positions + 1:  # the last token is only a target
        return [(ids, left)]
    if left <= (positions + 1) // 2:
        return [(ids[-positions - 1 :], left)]
    pieces = []
    while left:
        piece = min(left, (positions + 1) // 2)
        pieces.append((ids[max(0, len(ids) - positions - 1) :], piece))
        ids, left = ids[:-piece], left - piece
    return pieces


def _batches(rows, batch_tokens):
    """Rows of like length together, the longest first, so that a lack of memory shows at once."""
    rows = sorted(rows, key=lambda row: -len(row[1]))
    start = 0
    while start < len(rows):
        size = max(1, batch_tokens // len(rows[start][1]))
        yield rows[start : start + size]
        start += size


def _losses(model, batch, device):
    """For each token that counts: the number of its ending, and its loss in nats (float64), two arrays."""
    width = max(len(ids) for _, ids, _ in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.int64)
    counts = torch.zeros(len(batch), width - 1, dtype=torch.bool)  # of the predictions, by their place
    for row, (_, tokens, scored) in enumerate(batch):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        counts[row, len(tokens) - 1 - scored : len(tokens) - 1] = True
    ids, counts = ids.to(device), counts.to(device)
    # What is padded comes last, where a causal model cannot see it from any token that counts.
    logits = model(ids[:, :-1]).logits[counts].float()
    losses = nn.functional.cross_entropy(logits, ids[:, 1:][counts], reduction="none").double().cpu().numpy()
    return np.repeat([owner for owner, _, _ in batch], [scored for *_, scored in batch]), losses


def _encoder(tokenizer) -> Callable[[str], Sequence[int]]:
    if hasattr(tokenizer, "num_special_tokens_to_add"):  # of transformers
        return lambda text: tokenizer.encode(text, add_special_tokens=False)
    return tokenizer.encode
