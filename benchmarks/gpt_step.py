"""What AGLU costs in a GPT's training step, against GELU, eager and compiled; and the activations by themselves.

    python benchmarks/gpt_step.py                     the character model of a million parameters: minutes
    python benchmarks/gpt_step.py --size gpt2-small --rows 1 --context 256
    python benchmarks/gpt_step.py --eager             without torch.compile, which needs a C++ compiler

All take turns in one run, with memory kept by the allocator; ratios are medians of ratios within a turn.
"""

import argparse

import torch
import torch.nn.functional as F
from _measuring import allocator, keep_memory, median, progress, ratio, report, turns

from labkit.text.gpt import decay_groups, gpt

ACTIVATIONS = ("gelu", "aglu", "silu")
# AGLU over GELU: a whole step, eager and compiled
GOALS = {"eager": 1.35, "compiled": 1.35}


def stepper(activation, args, compiled):
    """A function that takes one step of AdamW on random tokens."""
    torch.manual_seed(0)
    model = gpt(args.size, activation, context=args.context)
    vocabulary = model.config.vocab_size
    optimizer = torch.optim.AdamW(decay_groups(model, 0.1), lr=1e-3)
    tokens = torch.randint(vocabulary, (args.rows, args.context + 1))
    called = torch.compile(model) if compiled else model

    def step():
        logits = called(tokens[:, :-1]).logits
        F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def alone(activation, args):
    """Forward and backward of one layer's activation."""
    model = gpt(args.size, activation, context=args.context)
    act = model.transformer.h[0].mlp.act
    inputs = torch.randn(args.rows, args.context, 4 * model.config.n_embd, requires_grad=True)
    weight = torch.randn(inputs.shape)

    def step():
        act(inputs).backward(weight)
        inputs.grad = None

    return step


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=40, help="to measure for (%(default)s)")
    parser.add_argument("--size", default="char")
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--eager", action="store_true")
    args = parser.parse_args()
    keep_memory()
    kinds = ("eager",) if args.eager else ("eager", "compiled")
    steppers = {f"{name} alone": alone(name, args) for name in ACTIVATIONS}
    for kind in kinds:
        for name in ACTIVATIONS:
            progress(f"making {name}, {kind} ...")
            steppers[f"{name}, {kind}"] = stepper(name, args, kind == "compiled")
    rows = turns(steppers, args.seconds, label=args.size)
    print(
        f"{args.size}, {args.rows} × {args.context} tokens, {torch.get_num_threads()} threads, {allocator()}, "
        f"torch {torch.__version__}"
    )
    print(f"median ms a step, {len(rows)} turns")
    for name in steppers:
        print(f"  {name:28s} {median(rows, name):8.2f}")
    goals = [("the activation alone: AGLU / GELU", ratio(rows, "aglu alone", "gelu alone"), None)]
    for kind in kinds:
        goals.append((f"a step, {kind}: AGLU / GELU", ratio(rows, f"aglu, {kind}", f"gelu, {kind}"), GOALS[kind]))
        goals.append((f"a step, {kind}: SiLU / GELU", ratio(rows, f"silu, {kind}", f"gelu, {kind}"), None))
    if len(kinds) > 1:
        goals += [
            (f"{name}: compiled / eager", ratio(rows, f"{name}, compiled", f"{name}, eager"), None)
            for name in ACTIVATIONS
        ]
    report(goals)


if __name__ == "__main__":
    main()
