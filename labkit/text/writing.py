"""A language model at work: what it would write next, and how likely it takes each token to be."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from labkit import checks


@torch.no_grad()
def following(
    model: nn.Module, tokens: list[int], count: int, *, temperature: float = 0.8, seed: int = 0
) -> Iterator[tuple[int, torch.Tensor]]:
    """So many tokens after the given ones, each with the probabilities (vocabulary,) out of which it was drawn.

    temperature: of the softmax; 0 takes the likeliest token each time. What is beyond the model's context is forgotten.
    The probabilities yielded are the model's own, at temperature 1. The model is in evaluation mode while it computes,
    and each of its modules in the mode it was in between tokens and afterwards.
    """
    checks.not_negative("temperature", temperature)
    checks.integer("count", count, 0)
    if not tokens:
        raise ValueError("there must be at least one token to go on from")
    device = next(iter([*model.parameters(), *model.buffers()])).device
    generator, tokens, positions = (
        torch.Generator().manual_seed(seed),
        list(tokens),
        model.config.max_position_embeddings,
    )
    for _ in range(count):
        seen = torch.tensor([tokens if positions is None else tokens[-positions:]], device=device)
        logits = _in_evaluation(model, seen)[0, -1].double().cpu()
        if temperature:
            token = int(torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator))
        else:
            token = int(logits.argmax())
        tokens.append(token)
        yield token, logits.softmax(-1)


def _in_evaluation(model, tokens):
    modes = [(module, module.training) for module in model.modules()]
    try:
        return model.eval()(tokens).logits
    finally:
        for module, mode in modes:
            module.training = mode


def write(
    model: nn.Module, vocabulary: Any, prompt: str, count: int, *, temperature: float = 0.8, seed: int = 0
) -> str:
    """What a model makes of a prompt, without the prompt: the text of `count` tokens, drawn as in `following`.

    vocabulary: with encode and decode, such as `corpora.Bytes()`; a prompt without a token raises ValueError.
    """
    drawn = following(model, vocabulary.encode(prompt), count, temperature=temperature, seed=seed)
    return vocabulary.decode([token for token, _ in drawn])
