"""What a model writes, against a loop written out and against counted frequencies."""

import numpy as np
import pytest
import torch

from labkit.text import corpora
from labkit.text.bigram import Bigram
from labkit.text.gpt import gpt
from labkit.text.writing import following, write


def test_the_likeliest_tokens_one_by_one_within_the_context():
    torch.manual_seed(0)
    model = gpt("tiny", vocabulary=9, context=6).eval()
    tokens, found = [1, 2, 3, 4, 5], list(following(model, [1, 2, 3, 4, 5], 5, temperature=0))
    for token, p in found:
        with torch.no_grad():
            logits = model(torch.tensor([tokens[-6:]])).logits[0, -1]
        torch.testing.assert_close(p.float(), logits.softmax(-1))
        assert token == int(logits.argmax())
        tokens.append(token)


def test_draws_follow_the_probabilities_and_the_temperature():
    model = Bigram(np.array([0, 0, 0, 1, 0, 0, 1, 0]), 2, added=0)
    p = model.table.exp()[0]
    for temperature in (1.0, 0.5):
        sharp = p ** (1 / temperature)
        drawn = [next(following(model, [0], 1, temperature=temperature, seed=s))[0] for s in range(1000)]
        assert np.mean(drawn) == pytest.approx(float(sharp[1] / sharp.sum()), abs=0.05)


def test_text_in_text_out_and_the_same_again():
    vocabulary = corpora.Characters("ab ")
    model = Bigram(np.array(vocabulary.encode("ab ab ab ab ")), vocabulary.size, added=1e-9)
    assert write(model, vocabulary, "a", 5, seed=3) == "b ab "
    with pytest.raises(ValueError, match="at least one token"):
        write(model, vocabulary, "", 5)
    with pytest.raises(ValueError, match="no 'z'"):
        write(model, vocabulary, "z", 5)


@pytest.mark.parametrize("fails", [False, True])
def test_each_module_is_left_in_the_mode_it_was_in(fails):
    model, seen = Bigram(np.array([0, 1, 0, 1, 0]), 2), []
    model.inner = torch.nn.Dropout()  # beside the model, in another mode
    model.register_forward_pre_hook(lambda module, _: seen.append((module.training, module.inner.training)))
    model.train(), model.inner.eval()
    vocabulary = corpora.Characters("ab")
    if fails:
        with pytest.raises(IndexError):
            list(following(model, [7], 3))
    else:
        for _ in following(model, [0], 3):
            assert model.training and not model.inner.training
        model.eval(), model.inner.train()
        write(model, vocabulary, "a", 2)
        assert not model.training and model.inner.training
        model.train(), model.inner.eval()
    assert model.training and not model.inner.training
    assert set(seen) == {(False, False)}
