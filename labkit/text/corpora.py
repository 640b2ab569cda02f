"""Text and token files as batches (tokens, next tokens), and the ways to turn text into tokens.

    corpus = read_text("tinyshakespeare.txt")
    train = Batches([corpus.train], 32, context=128)
    tokens, targets = train.batch(0)                      # int64 (32, 128) each; targets are the tokens one place on

There is no state: batch k of a seed is always the same, so a run that was stopped goes on where it was.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from labkit import checks
from labkit.system import written_whole

UNITS = ("characters", "bytes")
ORDERS = ("random", "in order")


class Bytes:
    """Text as its UTF-8 bytes: 256 tokens, and no text that cannot be written.

    >>> Bytes().encode("né"), Bytes().decode([110, 195, 169])
    ([110, 195, 169], 'né')
    """

    size = 256

    def encode(self, text: str) -> list[int]:
        """The bytes of a text."""
        return list(text.encode("utf-8"))

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some bytes; what is not UTF-8 becomes the replacement character."""
        return bytes(int(token) for token in tokens).decode("utf-8", errors="replace")


class Characters:
    """Text as characters out of a fixed alphabet, in the order of their code points.

    alphabet: a string that holds every character at least once.

    >>> letters = Characters("hello")
    >>> letters.size, letters.encode("hole"), letters.decode([1, 0])
    (4, [1, 3, 2, 0], 'he')
    """

    def __init__(self, alphabet: str):
        self.alphabet = "".join(sorted(set(alphabet)))
        self.size = len(self.alphabet)
        self._points = _code_points(self.alphabet)

    def encode(self, text: str) -> list[int]:
        """The place of each character in the alphabet. ValueError for a character that it does not have."""
        return self.array(text).tolist()

    def array(self, text: str) -> np.ndarray:
        """As `encode`, as an int64 array."""
        points = _code_points(text)
        places = np.searchsorted(self._points, points).clip(max=max(self.size - 1, 0))
        unknown = points != self._points[places] if self.size else np.ones(len(points), bool)
        if unknown.any():
            first = int(unknown.argmax())
            raise ValueError(
                f"the alphabet of {self.size} characters has no {text[first]!r} (character {first} of the text); "
                "Bytes() takes any text"
            )
        return places

    def decode(self, tokens: Sequence[int]) -> str:
        """The characters at these places."""
        return "".join(self.alphabet[int(token)] for token in tokens)


@dataclass(frozen=True)
class Corpus:
    """One text as tokens: int64 arrays `train` and `validation`, and the `vocabulary` they are written in."""

    train: np.ndarray
    validation: np.ndarray
    vocabulary: Bytes | Characters


def read_text(path: str | Path, units: str = "characters", validation: float = 0.1) -> Corpus:
    """A UTF-8 text file; the last part of it, a share `validation`, is kept for validation.

    units: "characters" (the alphabet is that of the whole file) or "bytes".
    Raises FileNotFoundError, and ValueError, naming the file, where it is empty or not UTF-8 text.
    """
    checks.one_of("units", units, UNITS)
    if not 0 < validation < 1:
        raise ValueError(f"validation must be a share between 0 and 1, got {validation!r}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no text file at {path.absolute()}; any UTF-8 text of that name will do")
    content = path.read_bytes()
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text: byte {error.start} of {len(content)} is out of place") from error
    if "\0" in text:
        raise ValueError(f"{path} is not a text file: it has a zero byte at {content.index(0)}")
    if units == "bytes":
        vocabulary, tokens = Bytes(), np.frombuffer(content, np.uint8).astype(np.int64)
    else:
        vocabulary = Characters(text)
        tokens = vocabulary.array(text)
    kept = round(len(tokens) * (1 - validation))
    if not 0 < kept < len(tokens):
        raise ValueError(f"{path} has {len(tokens)} {units}: too few for a part to train on and one to validate on")
    return Corpus(tokens[:kept], tokens[kept:], vocabulary)


def read_shards(folder: str | Path, split: str) -> list[np.ndarray]:
    """Token shards as build-nanogpt's fineweb.py writes them: one uint16 array (tokens,) for each file, in the order of
    their names, NAME_{split}_NUMBER.npy. They stay on the disk, and only what is used is read.

    Raises FileNotFoundError where there are none, and ValueError, naming the file, for one that is cut short, is no
    .npy file, or holds anything but a row of uint16.
    """
    checks.one_of("split", split, ("train", "val"))
    folder = Path(folder)
    paths = sorted(folder.glob(f"*_{split}_*.npy"))
    if not paths:
        raise FileNotFoundError(f"no shards *_{split}_*.npy, such as edufineweb_{split}_000001.npy, in {folder}")
    return [_shard(path) for path in paths]


class Batches:
    """Batches (tokens, next tokens), two int64 tensors (rows, context) each, out of one or several token arrays.

    arrays: integer arrays (tokens,), in memory or on the disk, such as `read_shards` gives.
    batch_size: rows of a batch over all processes together; `context`: tokens of a row.
    order: "random": every row starts anywhere, at equal chances, drawn from (seed, number of the batch). "in order":
        one row after another, array after array and round again, as in build-nanogpt; what is left at the end of an
        array, less than a batch, is left out. (There the ranks may change arrays at different steps; here never.)
    vocabulary: the number of kinds of tokens; a batch with a token outside it raises ValueError.
    rank, processes: this process gets the rank-th of so many equal shares of the rows.
    Raises ValueError for arrays that are too short, and for rows that cannot be shared equally.

    >>> batches = Batches([np.arange(100)], 2, context=3, order="in order")
    >>> batches.batch(1)
    (tensor([[ 6,  7,  8],
            [ 9, 10, 11]]), tensor([[ 7,  8,  9],
            [10, 11, 12]]))
    """

    def __init__(
        self,
        arrays: Sequence[np.ndarray],
        batch_size: int,
        *,
        context: int,
        order: str = "random",
        seed: int = 0,
        vocabulary: int | None = None,
        rank: int = 0,
        processes: int = 1,
        device: str | torch.device = "cpu",
    ):
        checks.one_of("order", order, ORDERS)
        checks.integer("batch_size", batch_size, 1)
        checks.integer("context", context, 1)
        if rank not in range(processes):
            raise ValueError(f"rank must be one of 0 … {processes - 1} for processes={processes}, got {rank!r}")
        if batch_size % processes:
            raise ValueError(f"batch_size={batch_size} rows cannot be shared equally by {processes} processes")
        # Of each array: the starts that a row may have, or the batches that it holds. A row needs one token more than
        # its context, the last target.
        needed = context + 1 if order == "random" else batch_size * context + 1
        counts = [
            len(array) - context if order == "random" else (len(array) - 1) // (batch_size * context)
            for array in arrays
        ]
        if not arrays or min(counts) < 1:
            short = [len(array) for array in arrays]
            rows = "a row" if order == "random" else f"a batch of {batch_size} rows"
            raise ValueError(
                f"each array must have at least {needed} tokens, {rows} of context={context} and the last target; "
                f"got arrays of {short or 'none'} tokens"
            )
        self.arrays, self.ends = list(arrays), np.cumsum(counts)
        self.batch_size, self.context, self.order = batch_size, context, order
        self.seed, self.vocabulary = seed, vocabulary
        self.rank, self.processes, self.device = rank, processes, torch.device(device)

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch number `step`, from 0 on: this process's rows of it."""
        total, share = int(self.ends[-1]), self.batch_size // self.processes
        mine = slice(self.rank * share, (self.rank + 1) * share)
        if self.order == "random":
            places = np.random.default_rng((self.seed, step)).integers(total, size=self.batch_size)[mine]
            starts = [self._place(place) for place in places]
        else:
            array, number = self._place(step % total)
            first = number * self.batch_size
            starts = [(array, row * self.context) for row in range(first + mine.start, first + mine.stop)]
        rows = np.stack([self.arrays[a][i : i + self.context + 1].astype(np.int64) for a, i in starts])
        if self.vocabulary is not None and not 0 <= rows.min() <= rows.max() < self.vocabulary:
            raise ValueError(
                f"tokens must lie in 0 … {self.vocabulary - 1}, but batch {step} has values from {rows.min()} to "
                f"{rows.max()}: these tokens were made for another vocabulary"
            )
        rows = torch.from_numpy(rows).to(self.device)
        return rows[:, :-1], rows[:, 1:]

    def _place(self, number):
        """The array of a row or batch, counted through all arrays, and its number there."""
        array = int(np.searchsorted(self.ends, number, side="right"))
        return array, int(number - (self.ends[array - 1] if array else 0))


def example(folder: str | Path | None = None) -> Path:
    """A text file to train on: tinyshakespeare.txt, where the data are (`data_folder`); or else Python's own help, some
    hundred thousand characters of English that every Python brings along, in a file under the temporary folder.
    """
    path = data_folder(folder) / "tinyshakespeare.txt"
    if path.is_file():
        return path
    from pydoc_data.topics import topics

    path = Path(tempfile.gettempdir()) / "labkit-text" / "python-help.txt"
    with written_whole(path) as file:
        file.write("\n\n".join(topics[name] for name in sorted(topics)).encode("ascii", "ignore"))
    return path


def data_folder(folder: str | Path | None = None) -> Path:
    """Where the data are: `folder`, else the environment variable LABKIT_DATA, else data/."""
    return Path(folder if folder is not None else os.environ.get("LABKIT_DATA", "data"))


def _code_points(text):
    return np.frombuffer(text.encode("utf-32-le", errors="surrogatepass"), np.uint32)


def _shard(path):
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} is damaged, or not an .npy file of uint16 tokens: {error}") from error
    if array.dtype != np.uint16 or array.ndim != 1 or not len(array):
        raise ValueError(f"{path} must hold uint16 tokens of shape (tokens,), got {array.dtype} {array.shape}")
    expected = path.stat().st_size - array.offset
    if expected != array.nbytes:
        raise ValueError(f"{path} has {expected} bytes of tokens, but says that there are {array.nbytes}")
    return array
