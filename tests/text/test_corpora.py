"""Readers and batches, against arrays cut by hand and a loader written out as build-nanogpt's."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from labkit.text import corpora
from labkit.text.bigram import Bigram
from labkit.text.corpora import Batches, Bytes, Characters

SHAKESPEARE = Path(os.environ.get("LABKIT_DATA", "data")) / "tinyshakespeare.txt"


def shards(folder, *lengths, split="train"):
    arrays = [np.arange(n).astype(np.uint16) + 1000 * i for i, n in enumerate(lengths)]
    for i, array in enumerate(arrays):
        np.save(folder / f"edufineweb_{split}_{i + 1:06d}", array)
    return arrays


def test_a_text_is_split_and_can_be_written_out_again(tmp_path):
    text = "Grüße, 世界!\r\nand so on.\n" * 10
    (tmp_path / "a.txt").write_bytes(text.encode())
    for units, length in (("characters", len(text)), ("bytes", len(text.encode()))):
        corpus = corpora.read_text(tmp_path / "a.txt", units, validation=0.25)
        assert len(corpus.train) == round(0.75 * length)
        tokens = np.concatenate([corpus.train, corpus.validation])
        assert len(tokens) == length and corpus.vocabulary.decode(tokens) == text
        assert corpus.vocabulary.encode(text) == tokens.tolist()
        assert 0 <= tokens.min() and tokens.max() < corpus.vocabulary.size


@pytest.mark.skipif(not SHAKESPEARE.is_file(), reason="Tiny Shakespeare is not there")
def test_tiny_shakespeare_has_its_known_size():
    corpus = corpora.read_text(SHAKESPEARE)
    assert len(corpus.train) + len(corpus.validation) == 1_115_394 and corpus.vocabulary.size == 65
    assert corpus.vocabulary.decode(corpus.train[:14]) == "First Citizen:"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"abc\xff def", "not UTF-8 text: byte 3 of 8"),
        (b"ab\0cd", "not a text file: it has a zero byte at 2"),
        (b"", "too few"),
        (b"a", "too few"),
    ],
)
def test_a_file_that_is_no_text_is_refused(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        corpora.read_text(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"b\.txt"):
        corpora.read_text(tmp_path / "b.txt")


def test_an_alphabet_refuses_what_it_does_not_have():
    with pytest.raises(ValueError, match=r"alphabet of 3 characters has no 'é' \(character 2"):
        Characters("cab").encode("abé")
    assert Characters("cab").encode("") == [] and Bytes().encode("") == []


def test_random_batches_are_pieces_of_the_text_by_seed_and_step():
    text = np.random.default_rng(0).permutation(500)  # each number once: a piece can be found again
    place = np.argsort(text)
    batches = Batches([text[:200], text[200:]], 8, context=5, seed=3)
    starts = set()
    for step in range(200):
        tokens, targets = batches.batch(step)
        for row, target in zip(tokens.numpy(), targets.numpy()):
            start = place[row[0]]
            assert (row == text[start : start + 5]).all() and (target == text[start + 1 : start + 6]).all()
            assert start + 5 < 200 or start >= 200  # no row across the end of an array
            starts.add(int(start))
    assert starts >= {0, 194, 200, 494} and not starts & {195, 495}  # every start that has a target, and no other
    again = Batches([text[:200], text[200:]], 8, context=5, seed=3)
    assert torch.equal(again.batch(17)[0], batches.batch(17)[0])
    other = Batches([text[:200], text[200:]], 8, context=5, seed=4)
    assert not torch.equal(other.batch(17)[0], batches.batch(17)[0])


@pytest.mark.parametrize("order", ["random", "in order"])
def test_the_shares_of_processes_make_up_the_batch_of_one(order):
    text = np.arange(1000)
    whole = Batches([text], 6, context=4, order=order, seed=1)
    parts = [Batches([text], 6, context=4, order=order, seed=1, rank=r, processes=3) for r in range(3)]
    for step in (0, 5, 99):
        for which in (0, 1):
            assert torch.equal(torch.cat([part.batch(step)[which] for part in parts]), whole.batch(step)[which])


def test_batches_in_order_are_those_of_build_nanogpt(tmp_path):
    arrays = shards(tmp_path, 61, 48, 50)  # of 24 tokens a batch: 2 batches, 1, 2
    batches = Batches(corpora.read_shards(tmp_path, "train"), 6, context=4, order="in order")
    shard, position = 0, 0
    for step in range(12):  # more than twice round
        piece = arrays[shard][position : position + 25].astype(int)
        tokens, targets = batches.batch(step)
        assert (tokens.numpy().ravel() == piece[:-1]).all() and (targets.numpy().ravel() == piece[1:]).all()
        assert tokens.dtype == torch.int64
        position += 24
        if position + 25 > len(arrays[shard]):
            shard, position = (shard + 1) % 3, 0


def test_damaged_and_foreign_shards_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no shards .*edufineweb_val_000001.npy"):
        corpora.read_shards(tmp_path, "val")
    shards(tmp_path, 100)
    path = tmp_path / "edufineweb_train_000001.npy"
    whole = path.read_bytes()
    for content in (whole[:-1], whole[:60], b"", b"PK\3\4 something else", whole + b"xx"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"edufineweb_train_000001\.npy"):
            corpora.read_shards(tmp_path, "train")
    for array in (np.arange(5, dtype=np.int32), np.zeros((2, 3), np.uint16), np.zeros(0, np.uint16)):
        np.save(path, array)
        with pytest.raises(ValueError, match=r"edufineweb_train_000001\.npy"):
            corpora.read_shards(tmp_path, "train")


def test_tokens_of_another_vocabulary_and_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match=r"0 … 9, but batch 2 has values from 0 to 19"):
        Batches([np.arange(20)], 20, context=19, vocabulary=10, order="random").batch(2)
    for options in (
        dict(batch_size=0),
        dict(context=20),
        dict(context=2.0),
        dict(batch_size=4, order="in order"),
        dict(processes=2, batch_size=3),
        dict(rank=1),
        dict(order="shuffled"),
        dict(arrays=[]),
    ):
        arguments = dict(arrays=[np.arange(20)], batch_size=2, context=5) | options
        with pytest.raises(ValueError):
            Batches(**arguments)


def test_a_bigram_model_counts_pairs():
    text = np.random.default_rng(0).integers(3, size=400)
    model = Bigram(text, 3)
    for a in range(3):
        followers = text[1:][text[:-1] == a]
        for b in range(3):
            p = (1 + (followers == b).sum()) / (3 + len(followers))
            assert model(torch.tensor([[a]])).logits[0, 0, b].exp() == pytest.approx(p, rel=1e-5)
    logits = model(torch.from_numpy(text[None, :-1])).logits
    loss = torch.nn.functional.cross_entropy(logits[0], torch.from_numpy(text[1:]))
    assert model.cross_entropy(text) == pytest.approx(loss.item(), rel=1e-6)
    with pytest.raises(ValueError, match="0 … 1"):
        Bigram(text, 2)
    with pytest.raises(ValueError, match="two tokens or more, got 1"):
        model.cross_entropy(text[:1])
    for other in ([0, -1, 2], [0, 3]):  # −1 counts from the end of a table, as if it were token 2
        with pytest.raises(ValueError, match=r"tokens must be numbers in 0 … 2, got (-1 to 2|0 to 3)"):
            model.cross_entropy(other)


def test_a_bigram_model_has_no_row_of_nan():
    table = Bigram(np.array([0, 1, 0]), 2, added=0).table
    assert table.exp().tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"no token follows token 1.*added=0\.0"):
        Bigram(np.array([0, 0, 1]), 3, added=0.0)
    for added in (-0.5, np.nan):
        with pytest.raises(ValueError, match="added must be a finite number of at least 0"):
            Bigram(np.array([0, 1, 0]), 2, added=added)


def test_the_example_is_shakespeare_or_what_every_python_has(tmp_path):
    """Where the data are not, the text is English, long enough to train on, and the same at every call."""
    help_ = corpora.example(tmp_path)
    assert help_.name == "python-help.txt" and corpora.example(tmp_path) == help_
    corpus = corpora.read_text(help_)
    assert len(corpus.train) > 300_000 and 80 < corpus.vocabulary.size < 100
    assert " the function " in help_.read_text(encoding="ascii")
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be")
    assert corpora.example(tmp_path) == tmp_path / "tinyshakespeare.txt"
