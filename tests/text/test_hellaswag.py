"""HellaSwag: hand-made tasks with known winners, losses against one ending at a time, and every kind of damage."""

import bz2
import json
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers.pre_tokenizers import ByteLevel

from labkit.text import hellaswag
from labkit.text.bigram import Bigram
from labkit.text.corpora import Bytes
from labkit.text.gpt import gpt
from labkit.text.hellaswag import PROMPTS, Task, Tasks, read, score

FULL = Path(os.environ.get("LABKIT_DATA", "data")) / "hellaswag_val_full.txt.bz2"
MADE = Tasks(
    (
        # A model that has only read "ab ab ab …" finds a, b and blank in their order likely and all else unlikely.
        Task("ab ab", ("ab ab", "ba ba", "aa aa", "bb bb"), 0),
        Task("ab", ("xx", "xy", "ab", "yx"), 2),
        # The mean takes the long ending, of which most is likely; the sum takes the short one.
        Task("ab", ("xb ab ab ab ab ab ab", "xx", "yyy", "zzz"), 0),
        Task("ab ab", ("a a a", "b b", "ab ab ab", "ab ab ab"), 3),  # a tie goes to the first, which is wrong here
    ),
    "made by hand",
)
LINES = ["Cooking: A pan is hot. the cook", "2", "flies.", "sings.", "puts oil into it.", "sleeps in it."] * 3


class Uniform(torch.nn.Module):
    """Every token is as likely as any other, and no more than `positions` of them can be seen."""

    def __init__(self, vocabulary, positions):
        super().__init__()
        self.config = SimpleNamespace(vocab_size=vocabulary, max_position_embeddings=positions)
        self.seen = []

    def forward(self, tokens):
        assert tokens.shape[1] <= self.config.max_position_embeddings
        self.seen.append(tokens)
        return SimpleNamespace(logits=torch.zeros(*tokens.shape, self.config.vocab_size))


def test_the_known_winners_win():
    result = score(Bigram(np.array(Bytes().encode("ab " * 200)), 256), Bytes(), MADE)
    assert result.chosen("mean").tolist() == [0, 2, 0, 2] and result.chosen("sum").tolist() == [0, 2, 1, 2]
    assert result.right("mean") == 3 and result.right("sum") == 2
    assert result.tokens[2].tolist() == [21, 3, 4, 4]  # the blank counts
    table = result.table().set_index("by")
    assert table.loc["mean", "accuracy"] == 0.75 and table.loc["sum", "tasks"] == 4
    assert "made by hand" in str(result) and "mean 75.00%" in str(result) and "sum  50.00%" in str(result)
    assert table.loc["mean", "low"] == pytest.approx(0.3006, abs=1e-4)  # Wilson's interval of 3 in 4, from tables
    assert table.loc["mean", "high"] == pytest.approx(0.9544, abs=1e-4)


@pytest.mark.parametrize("batch_tokens", [1, 64, 10_000])
def test_losses_are_those_of_one_ending_at_a_time(batch_tokens):
    torch.manual_seed(0)
    model = gpt("char", "aglu", context=64).eval()
    result = score(model, Bytes(), MADE, batch_tokens=batch_tokens)
    assert result.cut == 0
    for i, task in enumerate(MADE.tasks):
        for j, ending in enumerate(task.endings):
            context, ids = list(task.context.encode()), list((" " + ending).encode())
            tokens = torch.tensor([context + ids])
            labels = torch.tensor([[-100] * len(context) + ids])  # transformers' own loss leaves −100 out
            with torch.no_grad():
                wanted = model(tokens, labels=labels).loss.item() * len(ids)
            assert result.losses[i, j] == pytest.approx(wanted, rel=1e-5), (i, j)


def test_what_is_too_long_is_cut_and_counted_and_every_token_still_counts_once():
    text = "abcdefghijklmnopqrstuvwxyz" * 2
    tasks = Tasks((Task(text[:30], ("ab", text[:20], text[:45], ""), 1),), "made by hand")
    for positions in (1, 2, 7, 16, 32, 200):
        model = Uniform(256, positions)
        result = score(model, Bytes(), tasks)
        assert result.losses[0] == pytest.approx(result.tokens[0] * np.log(256))
        assert result.tokens.tolist() == [[3, 21, 46, 1]]
        assert result.cut == {1: 4, 2: 4, 7: 4, 16: 4, 32: 2, 200: 0}[positions]
    # Four positions see the last four tokens before the last one, which is only a target.
    model = Uniform(256, 4)
    score(model, Bytes(), Tasks((Task("uvwxyz", ("c",) * 4, 0),), ""))
    assert bytes(model.seen[0][0].tolist()) == b"xyz "


@pytest.mark.parametrize("name", ["tasks.txt", "tasks.txt.bz2"])
def test_six_lines_are_a_task(tmp_path, name):
    content = ("\n".join(LINES) + "\n").encode()
    (tmp_path / name).write_bytes(bz2.compress(content) if name.endswith("bz2") else content)
    tasks = read(tmp_path / name, count=3)
    assert tasks.prompt == PROMPTS["text"] and len(tasks) == 3
    assert tasks.tasks[1] == Task(LINES[0], tuple(LINES[2:6]), 2)
    assert [len(tasks.share(rank, 2)) for rank in (0, 1)] == [2, 1]
    with pytest.raises(ValueError, match="has 3 tasks, and should have 10042"):
        read(tmp_path / name, hellaswag.VALIDATION)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (LINES[:4] + LINES[5:], "line 8: the label must be 0, 1, 2 or 3, got 'flies.'; .* one may be missing"),
        (LINES[1:], "line 2: the label must be .* one may be missing above"),
        (LINES[:-1], "ends within a task: 5 of 6 lines from line 13 on"),
        (LINES[:7] + ["4"] + LINES[8:], "line 8: the label must be 0, 1, 2 or 3, got '4'"),
        (LINES[:7] + ["-1"] + LINES[8:], "line 8"),
        (LINES[:7] + ["2 "] + LINES[8:], "line 8"),
        (LINES[:9] + [""] + LINES[10:], "line 10 is empty"),
        ([], "line 1 is empty|ends within a task"),
    ],
)
def test_a_damaged_text_file_is_refused(tmp_path, lines, message):
    (tmp_path / "tasks.txt").write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=message):
        read(tmp_path / "tasks.txt")


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    packed = bz2.compress(("\n".join(LINES) + "\n").encode())
    path = tmp_path / "tasks.txt.bz2"
    for content in (packed[:-10], packed[:40], b"", packed[:50] + b"xxx" + packed[53:], packed + packed[:9], b"no bz2"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"tasks\.txt\.bz2 is"):
            read(path)
    (tmp_path / "tasks.txt").write_text("\n".join(LINES)[:-3])
    with pytest.raises(ValueError, match="its last line does not end"):
        read(tmp_path / "tasks.txt")
    with pytest.raises(FileNotFoundError, match="no HellaSwag file"):
        read(tmp_path / "other.txt")


def test_the_published_form_names_another_prompt(tmp_path):
    item = {"ind": 24, "activity_label": "Roof", "ctx_a": "[header] A man.", "ctx_b": "he", "ctx": "[header] A man. he"}
    item |= {"split": "val", "label": 3, "endings": ["a", "b", "c", "d"]}
    path = tmp_path / "hellaswag_val.jsonl"
    path.write_text(json.dumps(item) + "\n" + json.dumps(item | {"label": 0}) + "\n")
    tasks = read(path)
    assert tasks.prompt == PROMPTS["jsonl"] != PROMPTS["text"]
    assert tasks.tasks == (Task("[header] A man. he", tuple("abcd"), 3), Task("[header] A man. he", tuple("abcd"), 0))
    without = {key: value for key, value in item.items() if key != "label"}  # as in the published test set
    for bad in (without, item | {"label": 4}, item | {"endings": ["a", "b", "c"]}, item | {"ctx": ""}, [1], "x"):
        path.write_text(json.dumps(item) + "\n" + json.dumps(bad) + "\n")
        with pytest.raises(ValueError, match=r"hellaswag_val\.jsonl, line 2"):
            read(path)
    path.write_text(json.dumps(item) + "\n" + json.dumps(item)[:40] + "\n")
    with pytest.raises(ValueError, match="line 2 is not a HellaSwag task"):
        read(path)


def test_gpt2s_tokenizer_is_read_from_local_files(tmp_path):
    letters = sorted(ByteLevel.alphabet())  # GPT-2's way to write each of the 256 bytes as one letter
    merges = ["Ġ t", "h e", "Ġt he"]
    vocabulary = [*letters, *(merge.replace(" ", "") for merge in merges), "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(vocabulary)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    found = hellaswag.tokenizer(tmp_path)
    assert found.encode(" the") == [258] and found.encode("the") == [letters.index("t"), 257]
    tasks = Tasks((Task("in the", ("the", "the the", "cat", "a"), 0),), "made by hand")
    assert score(Uniform(260, 64), found, tasks).tokens.tolist() == [[1, 2, 4, 2]]
    with pytest.raises(ValueError, match="tokens up to 258, but the model has only 200"):
        score(Uniform(200, 64), found, tasks)
    assert isinstance(hellaswag.tokenizer("bytes"), Bytes)
    with pytest.raises(ValueError, match=r"no tokenizer .*empty.*vocab\.json"):
        (tmp_path / "empty").mkdir()
        hellaswag.tokenizer(tmp_path / "empty")


def test_losses_that_are_not_finite_and_tasks_without_context_are_refused():
    model = Bigram(np.array(Bytes().encode("ab" * 20)), 256)
    with pytest.raises(ValueError, match="context of task 0 has no tokens"):
        score(model, Bytes(), Tasks((Task("", ("a",) * 4, 0),), ""))
    model.table[ord("a")] = float("nan")
    with pytest.raises(FloatingPointError, match="of 16 endings"):
        score(model, Bytes(), MADE)


@pytest.mark.skipif(not FULL.is_file(), reason="HellaSwag's validation set is not there")
def test_the_validation_set_has_its_known_size():
    tasks = read(FULL, hellaswag.VALIDATION)
    assert [sum(task.label == label for task in tasks.tasks) for label in range(4)] == [2515, 2485, 2584, 2458]
    assert tasks.tasks[0].endings[2] == "is holding a rubik's cube." and tasks.tasks[0].label == 3
