"""HellaSwag (Zellers et al. 2019): which of four endings does a language model find likeliest?

    tasks = read("hellaswag_val_full.txt.bz2")
    print(score(model, tokenizer("bytes"), tasks))      # model: any causal model of transformers, or a Bigram

Two answers are scored: the ending of the lowest mean loss a token, and that of the lowest sum over its tokens. Scores
are comparable only where the prompt is the same, which every score therefore names.
"""

import bz2
import json
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

# What stands before an ending, by the kind of file.
PROMPTS = {
    "text": "activity label: context, without bracket tags (as llama.cpp has it)",
    "jsonl": "ctx as it is, no activity label, bracket tags kept (as build-nanogpt has it)",
}
LINES = 6  # of a task in the text file: context, label, four endings
VALIDATION = 10_042  # tasks of the validation set


@dataclass(frozen=True)
class Task:
    """A context, four endings, and the number of the right one, 0 … 3."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Tasks:
    """Tasks, and in words what prompt their contexts are."""

    tasks: tuple[Task, ...]
    prompt: str

    def __len__(self) -> int:
        return len(self.tasks)

    def share(self, rank: int, processes: int) -> "Tasks":
        """Every so-manieth task, for one of several processes."""
        return Tasks(self.tasks[rank::processes], self.prompt)


# Made by hand, to try the format where the file is not there: they say nothing about a model.
MADE_UP = Tasks(
    (
        Task(
            "Baking bread: A woman mixes flour, water and yeast in a bowl. She kneads the dough on a table. She",
            (
                "puts the dough into the oven, still in its paper bag, and paints the wall.",
                "covers it with a cloth and waits until it has risen.",
                "throws the yeast to the dog and sings.",
                "reads the dough aloud and folds it into her bicycle.",
            ),
            1,
        ),
        Task(
            "Changing a tyre: A man lifts his car with a jack and loosens the nuts of a wheel. He",
            (
                "drinks the jack and drives the nuts home.",
                "paints the wheel on the road and waits for rain.",
                "takes the wheel off and puts the spare one in its place.",
                "gives the car to the wheel, which smiles.",
            ),
            2,
        ),
        Task(
            "Swimming: Children stand at the edge of a pool. The teacher blows a whistle. They",
            (
                "fold the pool and carry it upstairs.",
                "sell the whistle to the water.",
                "are cooked slowly in the snow.",
                "jump into the water and swim to the other side.",
            ),
            3,
        ),
        Task(
            "Playing the violin: A girl opens a case and takes out a violin. She tunes its strings. She",
            (
                "lays the bow on the strings and begins to play.",
                "waters the strings until they flower.",
                "takes a bite of the case and counts it.",
                "climbs through the violin into the garden.",
            ),
            0,
        ),
    ),
    "made by hand for labkit, in the form of the text file",
)


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


def read(path: str | Path, count: int | None = None) -> Tasks:
    """The tasks of a file: text with six lines a task (context, label, four endings), packed (.bz2) or not, or the
    published .jsonl (ctx, endings, label).

    count: how many tasks there must be, such as VALIDATION; None takes any number.
    Raises FileNotFoundError, and ValueError, naming the file and the line, for anything else than whole tasks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no HellaSwag file at {path}")
    content = path.read_bytes()
    try:
        if path.suffix == ".bz2":
            content = _unpacked(content)
        text = content.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not text.endswith("\n"):
        raise ValueError(f"{path} is empty or cut short: its last line does not end")
    lines = text[:-1].split("\n")
    kind = "jsonl" if path.name.removesuffix(".bz2").endswith(".jsonl") else "text"
    tasks = tuple((_from_json if kind == "jsonl" else _from_text)(path, lines))
    if count is not None and len(tasks) != count:
        raise ValueError(f"{path} has {len(tasks)} tasks, and should have {count}")
    return Tasks(tasks, PROMPTS[kind])


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


def _unpacked(content):
    unpacker = bz2.BZ2Decompressor()
    text = unpacker.decompress(content)
    if not unpacker.eof:
        raise EOFError(f"the packed file is cut short after {len(content)} bytes")
    if unpacker.unused_data:
        raise EOFError(f"{len(unpacker.unused_data)} bytes follow after the end of the packed file")
    return text


def _from_text(path, lines):
    for start in range(0, len(lines), LINES):
        task = lines[start : start + LINES]
        if len(task) < LINES:
            raise ValueError(f"{path} ends within a task: {len(task)} of {LINES} lines from line {start + 1} on")
        context, label, *endings = task
        if label not in ("0", "1", "2", "3"):
            raise ValueError(
                f"{path}, line {start + 2}: the label must be 0, 1, 2 or 3, got {label[:60]!r}; there are {LINES} "
                "lines a task, and one may be missing above"
            )
        for line, text in enumerate(task, start + 1):
            if not text.strip():
                raise ValueError(f"{path}, line {line} is empty")
        yield Task(context, tuple(endings), int(label))


def _from_json(path, lines):
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
            context, endings, label = item["ctx"], item["endings"], item["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where} is not a HellaSwag task with ctx, endings and label: {error!r}") from error
        if not (isinstance(endings, list) and len(endings) == 4 and all(isinstance(e, str) and e for e in endings)):
            raise ValueError(f"{where}: there must be four endings, got {str(endings)[:60]!r}")
        if isinstance(label, bool) or label not in (0, 1, 2, 3):
            raise ValueError(f"{where}: the label must be 0, 1, 2 or 3, got {label!r}")
        if not (isinstance(context, str) and context):
            raise ValueError(f"{where}: ctx must be a text, got {context!r}")
        yield Task(context, tuple(endings), int(label))
