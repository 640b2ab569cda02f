"""Runs of language models with the measures of collapse at their end: the features of a context by the token after it.

    history = train(RECIPES["char-gpt/tinyshakespeare"] | {"lr": 3e-3}, "aglu", seed=0, folder="runs/aglu-0")
    history.final()[["validation_loss", "nc1", "cosine_margin"]]
    tokens_of(history)                                       a row for each character: how often, margin, accuracy

A language model is a classifier of contexts: its classes are the tokens, its features what goes into the output layer.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import nn

from labkit import checks, metrics
from labkit.history import History, provenance
from labkit.report import collapse
from labkit.studies import rates
from labkit.text import corpora, hellaswag, recipes
from labkit.text.bigram import Bigram
from labkit.text.gpt import gpt
from labkit.text.training import HISTORY
from labkit.text.writing import write

SAMPLES = 65_536  # places in the training text that a run is measured at
LEAST = 20  # samples of a class, below which nothing is said of its spread
FREQUENT = 10  # tokens that count as frequent
MEASURES = (  # of the report, as columns of a run's last row
    "accuracy nearest_mean_accuracy nc1 nc1_quotient cdnv nc2 nc2_means nc3 nc4 equinorm_weights equinorm_means "
    "cosine_margin smallest_margin"
).split()


@dataclass(frozen=True)
class Collapse:
    """What `collapse_of` found: `values`, {measure: number}, and `tokens`, a table with a row for each class."""

    values: dict[str, float]
    tokens: pd.DataFrame


def collapse_of(
    model: nn.Module,
    tokens: np.ndarray,
    context: int,
    *,
    samples: int = SAMPLES,
    least: int = LEAST,
    batch_size: int = 16,
) -> Collapse:
    """How far the features of contexts have collapsed, by the token that comes next.

    model: a causal model of transformers. tokens: integer array (N,), cut into rows of `context`. Of these, rows spread
        evenly over all are taken, with about so many samples together: every place of a row is one, so that contexts of
        all lengths up to `context` count.
    least: tokens that come next less often than this are left out of the classes, and their samples with them.

    values: `MEASURES` of `labkit.report` about the mean of all samples; also "classes" and "left_out", how many tokens
    were kept and how many of those that occur were not; "frequent_margin" and "rare_margin", the mean cosine margins
    of the samples of the ten most frequent tokens and of all others.
    tokens: columns token, count, margin (mean cosine margin), accuracy, variance (mean squared distance to the class
    mean over the mean squared length of all centred features) and length (of the class vector, over the mean length).
    Raises ValueError where fewer than two tokens are left.
    """
    checks.integer("least", least, 2)
    rows = (len(tokens) - 1) // context
    if rows < 1:
        raise ValueError(f"{len(tokens)} tokens are too few for one row of context={context}")
    taken = np.linspace(0, rows - 1, min(rows, max(1, samples // context))).round().astype(int)
    inputs, targets = (
        torch.as_tensor(np.asarray(tokens[k : rows * context + k], np.int64)).reshape(rows, context)[taken]
        for k in (0, 1)
    )
    targets = targets.flatten()
    counts = torch.bincount(targets)
    kept = (counts >= least).nonzero().flatten()
    if len(kept) < 2:
        raise ValueError(f"of {len(targets)} places, only {len(kept)} tokens come next {least} times or more")
    place = torch.full((len(counts),), -1)
    place[kept] = torch.arange(len(kept))
    features = torch.cat([_features(model, part) for part in inputs.split(batch_size)])[place[targets] >= 0]
    labels = place[targets[place[targets] >= 0]]
    output = model.get_output_embeddings()
    classifier = nn.Linear(output.in_features, len(kept), bias=output.bias is not None, dtype=features.dtype)
    classifier.weight.data = output.weight.detach().to(features)[kept]
    if output.bias is not None:
        classifier.bias.data = output.bias.detach().to(features)[kept]
    report = collapse(classifier, list(zip(features.split(4096), labels.split(4096))))
    table = _by_token(features, labels, classifier, kept, report.margins)
    frequent = table.nlargest(FREQUENT, "count")["token"]
    values = {name: report[name] for name in MEASURES} | {
        "classes": len(kept),
        "left_out": int((counts > 0).sum()) - len(kept),
        "frequent_margin": _mean(table[table["token"].isin(frequent)]),
        "rare_margin": _mean(table[~table["token"].isin(frequent)]),
    }
    return Collapse(values, table)


@torch.no_grad()
def _features(model, tokens):
    """What goes into the output layer at every place of tokens (B, T): (B·T, d), on the CPU."""
    model.eval()
    device = next(model.parameters()).device
    return model.base_model(tokens.to(device)).last_hidden_state.flatten(0, 1).float().cpu()


def _by_token(features, labels, classifier, kept, margins):
    h, weight = features.double(), classifier.weight.detach().double()
    means, centre = metrics.class_means(h, labels, len(kept))
    right = (classifier(features).argmax(-1) == labels).double()
    spread = (h - means[labels]).square().sum(-1)
    columns = torch.stack([margins.cpu(), right, spread], -1)
    sums, counts = metrics.class_sums(columns, labels, len(kept))
    margin, accuracy, variance = (sums / counts.unsqueeze(-1)).unbind(-1)
    lengths = weight.norm(dim=-1)
    return pd.DataFrame(
        {
            "token": kept.numpy(),
            "count": counts.numpy(),
            "margin": margin.numpy(),
            "accuracy": accuracy.numpy(),
            "variance": (variance / (h - centre).square().sum(-1).mean()).numpy(),
            "length": (lengths / lengths.mean()).numpy(),
        }
    )


def _mean(table):
    """The mean margin of the samples of some tokens; NaN where there are none."""
    return float((table["margin"] * table["count"]).sum() / table["count"].sum()) if len(table) else float("nan")


def train(
    settings: dict,
    activation: str,
    seed: int = 0,
    folder: str | Path | None = None,
    *,
    data: str | Path | None = None,
    progress: bool = False,
) -> History:
    """`labkit.text.recipes.run`, with `collapse_of` the training text in the last row of the History, and in its
    settings "tokens", the table by token, "alphabet", and "sample", what the model writes.

    For recipes on a text file; arguments as there. A run that was stopped goes on from its checkpoint in `folder`.
    """
    if settings["corpus"] == recipes.SHARDS:
        raise ValueError("runs on token shards have too many classes to be measured at their end; take recipes.run")
    corpus = corpora.read_text(corpora.data_folder(data) / settings["corpus"], settings["units"])
    trainer = recipes.make(settings, activation, seed, folder, data=data, progress=progress)
    history = trainer.run()
    found = collapse_of(trainer.model, corpus.train, settings["context"])
    for name, value in found.values.items():
        history.frame.loc[history.frame.index[-1], name] = value
    history.settings |= {
        "tokens": found.tokens.round(5).to_dict("list"),
        "alphabet": getattr(corpus.vocabulary, "alphabet", None),
        "sample": write(trainer.model, corpus.vocabulary, "\n", 400, seed=0),
    }
    if folder is not None:
        history.save(Path(folder) / HISTORY)
    return history


def tokens_of(history: History) -> pd.DataFrame:
    """The table by token of a run that `train` made, with the tokens as text in a column "text"."""
    table = pd.DataFrame(history.settings["tokens"])
    alphabet = history.settings["alphabet"]
    vocabulary = corpora.Bytes() if alphabet is None else corpora.Characters(alphabet)
    return table.assign(text=[vocabulary.decode([token]) for token in table["token"]])


def paired(ends: pd.DataFrame, one: str, other: str, measure: str = "validation_loss") -> dict:
    """How much a measure differs between two activations at the same seeds: mean of one − other, its 95 % interval by
    Student's t, in how many seeds it is below 0, and the number of seeds.
    The interval is NaN with fewer than two.

    >>> ends = pd.DataFrame({"head": ["aglu", "gelu"] * 3, "seed": [0, 0, 1, 1, 2, 2], "loss": [1, 2, 1, 3, 2, 5]})
    >>> paired(ends, "aglu", "gelu", "loss")  # doctest: +ELLIPSIS
    {'mean': -2.0, 'low': -4.484..., 'high': 0.484..., 'below': 3, 'seeds': 3}
    """
    table = ends.pivot(index="seed", columns="head", values=measure)
    gap = (table[one] - table[other]).dropna()
    values = dict(zip(("mean", "low", "high"), map(float, rates.interval(gap))))
    return values | {"below": int((gap < 0).sum()), "seeds": len(gap)}


def hellaswag_floor(data: str | Path | None = None, progress: bool = False) -> History:
    """What HellaSwag's 10 042 tasks make of models that cannot know the answer, byte by byte: an untrained GPT of size
    "tiny", which guesses, and a bigram model counted from Tiny Shakespeare. One row each, with the accuracy by the mean
    and by the sum of losses, its 95 % interval, the number of tasks, the prompt and the seconds that it took.

    data: the folder of hellaswag_val_full.txt.bz2 and tinyshakespeare.txt.
    """
    folder = corpora.data_folder(data)
    tasks = hellaswag.read(folder / "hellaswag_val_full.txt.bz2", hellaswag.VALIDATION)
    text = corpora.read_text(folder / "tinyshakespeare.txt", "bytes")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        untrained = gpt("tiny")
    rows = []
    for name, model in (("untrained", untrained), ("bigram", Bigram(text.train, text.vocabulary.size))):
        started = time.process_time()
        found = hellaswag.score(model, text.vocabulary, tasks, progress=progress)
        row = {"head": name, "seed": 0, "iteration": 0, "seconds": round(time.process_time() - started, 1)}
        for line in found.table().to_dict("records"):
            row |= {f"{line['by']}_{key}": line[key] for key in ("accuracy", "low", "high")}
        rows.append(row | {"tasks": len(tasks), "cut": found.cut})
    settings = {"prompt": tasks.prompt, "tokenizer": "bytes", "seconds": "of all cores", **provenance("cpu")}
    return History(pd.DataFrame(rows), settings)


if __name__ == "__main__":
    made = argparse.ArgumentParser(
        prog="python -m labkit.studies.language", description="HellaSwag by models that cannot know the answer."
    )
    made.add_argument("--out", default="data/results/hellaswag-floor.parquet", help="(%(default)s)")
    path = made.parse_args().out
    torch.set_num_threads(1)
    print(hellaswag_floor(progress=True).save(path))
