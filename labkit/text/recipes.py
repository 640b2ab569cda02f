"""Language models from settings to a History, and the command line that trains them.

    python -m labkit.text --activation gelu aglu --seeds 0 1 2 --folder runs
    python -m labkit.text --recipe gpt2-small/fineweb-edu --data edu_fineweb10B --tokenizer gpt2-files --folder runs
    torchrun --nproc_per_node 8 -m labkit.text …                                                on several GPUs

--data is the folder with tinyshakespeare.txt, or with the token shards; HellaSwag's file may lie there too. Each run
has a folder of its own, and the same command once more goes on where it was stopped.
"""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from labkit import checks
from labkit.history import History
from labkit.text import corpora, hellaswag, training
from labkit.text.corpora import Batches
from labkit.text.gpt import ACTIVATIONS, SIZES, decay_groups, gpt, shapes_by_depth

SHARDS = "fineweb-edu"
RECIPES = {
    # Ours, after the example of nanoGPT for one core: the released code has nothing so small.
    "char-gpt/tinyshakespeare": dict(
        corpus="tinyshakespeare.txt",
        units="characters",
        size="char",
        vocabulary=None,  # that of the corpus
        context=128,
        dropout=0.0,
        batch_size=32,
        micro_batch=32,
        steps=2000,
        warmup=100,
        lr=1e-3,
        floor=0.1,
        betas=(0.9, 0.99),
        weight_decay=0.1,
        clip=1.0,
        precision="no",
        measure_every=200,
        validation_batches=20,
        hellaswag=False,
    ),
    # The supplement's §3.8 says 8 GPUs, one epoch, half a million tokens a step, rate 6e-4; all else is of
    # build-nanogpt (train_gpt2.py at 6104ab1), which it trained with. The ranges of κ and λ are not given: AGLU's own.
    "gpt2-small/fineweb-edu": dict(
        corpus=SHARDS,
        units=None,
        size="gpt2-small",
        vocabulary=50304,  # 50 257, padded: 124 475 904 parameters
        context=1024,
        dropout=0.0,
        batch_size=512,  # rows of 1024: 2^19 tokens
        micro_batch=64,
        steps=19073,
        warmup=715,
        lr=6e-4,
        floor=0.1,
        betas=(0.9, 0.95),
        weight_decay=0.1,
        clip=1.0,
        precision="bf16",
        measure_every=250,
        validation_batches=20,
        hellaswag=True,
    ),
}
KEYS = tuple(RECIPES["char-gpt/tinyshakespeare"])
TASKS = ("hellaswag_val.jsonl", "hellaswag_val_full.txt.bz2")  # the first that is there


def run(
    settings: dict,
    activation: str,
    seed: int = 0,
    folder: str | Path | None = None,
    *,
    data: str | Path | None = None,
    tokenizer: str | None = None,
    progress: bool = False,
) -> History:
    """One run to its end, or from where it was stopped.

    settings: dict with the keys of RECIPES. batch_size: rows of a step; micro_batch: rows at once in one process.
    activation: of gpt.ACTIVATIONS. seed: of weights and batches; at one seed all activations start from equal weights.
    data: folder of the corpus (LABKIT_DATA, else data/). tokenizer: for HellaSwag, as in `hellaswag.tokenizer`.
    """
    return make(settings, activation, seed, folder, data=data, tokenizer=tokenizer, progress=progress).run()


def make(
    settings: dict,
    activation: str,
    seed: int = 0,
    folder: str | Path | None = None,
    *,
    data: str | Path | None = None,
    tokenizer: str | None = None,
    progress: bool = False,
) -> training.Trainer:
    """The Trainer of `run`, for those who want to look at each epoch."""
    s = check(settings)
    checks.one_of("activation", activation, tuple(ACTIVATIONS))
    checks.integer("seed", seed, 0)
    data = corpora.data_folder(data)
    # With a state of its own a run keeps the precision that it was made with, and leaves that of others as it is.
    AcceleratorState._shared_state = type(AcceleratorState._shared_state)()
    on = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=s["precision"])
    rows = min(s["micro_batch"] * on.num_processes, s["batch_size"])
    if s["batch_size"] % rows:
        raise ValueError(
            f"batch_size={s['batch_size']} rows is no multiple of micro_batch={s['micro_batch']} rows in "
            f"{on.num_processes} process(es)"
        )
    accumulate = s["batch_size"] // rows
    if s["corpus"] == SHARDS:
        parts, vocabulary = [corpora.read_shards(data, split) for split in ("train", "val")], s["vocabulary"]
        order = ("in order", "in order")
    else:
        corpus = corpora.read_text(data / s["corpus"], s["units"])
        parts, vocabulary = [[corpus.train], [corpus.validation]], s["vocabulary"] or corpus.vocabulary.size
        order = ("random", "in order")
    place = dict(rank=on.process_index, processes=on.num_processes, device=on.device, vocabulary=vocabulary)
    place |= dict(context=s["context"], seed=seed)
    train, held_out = (Batches(part, rows, order=kind, **place) for part, kind in zip(parts, order))
    tasks = _tasks(data, tokenizer) if s["hellaswag"] else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = gpt(s["size"], activation, vocabulary=vocabulary, context=s["context"], dropout=s["dropout"])
    model = model.to(on.device)  # before the optimiser, whose fused form looks where the parameters are
    optimizer = torch.optim.AdamW(
        decay_groups(model, s["weight_decay"]),
        lr=s["lr"],
        betas=tuple(s["betas"]),
        eps=1e-8,
        fused=on.device.type == "cuda",
    )
    if on.device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as in build-nanogpt
    return training.Trainer(
        model,
        optimizer,
        train,
        partial(measure, model, held_out, s["validation_batches"], tasks, on, progress),
        name=activation,
        steps=s["steps"],
        every=s["measure_every"],
        accumulate=accumulate,
        schedule=partial(training.cosine, steps=s["steps"], warmup=s["warmup"], floor=s["floor"]),
        clip=s["clip"],
        seed=seed,
        folder=folder,
        settings={"run": s, "activation": activation, "prompt": tasks and tasks[1].prompt},
        on=on,
        progress=progress,
    )


def measure(
    model: nn.Module, held_out: Batches, batches: int, tasks: tuple | None, on: Accelerator, progress: bool = False
) -> dict:
    """Loss on so many held-out batches, or on all where these are fewer, in nats a token; κ and λ by depth; and with
    tasks, (tokenizer, Tasks), HellaSwag's shares of right answers. All over all processes.
    """
    held_out = map(held_out.batch, range(min(batches, int(held_out.ends[-1]))))  # beyond, the first would come again
    found = [F.cross_entropy(model(x).logits.flatten(0, 1).float(), y.flatten()) for x, y in held_out]
    values = {"validation_loss": on.reduce(torch.stack(found).mean(), "mean").item(), **shapes_by_depth(model)}
    if tasks is not None:
        tokenizer, items = tasks
        mine = items.share(on.process_index, on.num_processes)
        shown = progress and on.is_main_process
        result = hellaswag.score(model, tokenizer, mine, device=on.device, progress=shown)
        right = torch.tensor([result.right("mean"), result.right("sum")], device=on.device)
        of_mean, of_sum = on.reduce(right, "sum").tolist()
        values |= {"hellaswag_mean": of_mean / len(items), "hellaswag_sum": of_sum / len(items)}
    return values


def check(settings: dict) -> dict:
    """The settings, if they are complete and possible; ValueError otherwise."""
    if settings.keys() != set(KEYS):
        missing, unknown = sorted(KEYS - settings.keys()), sorted(settings.keys() - set(KEYS))
        raise ValueError(f"settings must have the keys {', '.join(KEYS)}; missing: {missing}, unknown: {unknown}")
    for key in ("context", "batch_size", "micro_batch", "steps", "measure_every", "validation_batches"):
        checks.integer(key, settings[key], 1)
    checks.integer("warmup", settings["warmup"], 0)
    checks.positive("lr", settings["lr"])
    checks.one_of("precision", settings["precision"], ("no", "bf16"))
    return dict(settings)


def _tasks(data, tokenizer):
    paths = [data / name for name in TASKS if (data / name).is_file()]
    if not paths or tokenizer is None:
        raise ValueError(
            f"HellaSwag needs its file, {' or '.join(TASKS)}, in {data}, and a tokenizer for the vocabulary; "
            f"got {paths or 'no file'} and tokenizer={tokenizer!r}. hellaswag=False does without (--no-hellaswag)"
        )
    return hellaswag.tokenizer(tokenizer), hellaswag.read(paths[0], hellaswag.VALIDATION)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit status, 1 where a run diverged."""
    parser = argparse.ArgumentParser(prog="python -m labkit.text", description="Train GPTs with any activation.")
    parser.add_argument("--recipe", choices=RECIPES, default=next(iter(RECIPES)), help="(%(default)s)")
    parser.add_argument("--activation", nargs="+", choices=ACTIVATIONS, default=["gelu", "aglu"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--data", help="folder of the corpus (LABKIT_DATA, else data/)")
    parser.add_argument("--folder", required=True, help="where the runs are kept, each in a folder of its own")
    parser.add_argument("--tokenizer", help="folder of GPT-2's tokenizer, or a hub name; for HellaSwag")
    changes = parser.add_argument_group("in place of what the recipe says")
    changes.add_argument("--size", choices=SIZES)
    changes.add_argument("--precision", choices=("no", "bf16"))
    changes.add_argument("--hellaswag", action=argparse.BooleanOptionalAction, default=None)
    for key in ("context", "batch_size", "micro_batch", "steps", "warmup", "measure_every", "validation_batches"):
        changes.add_argument(f"--{key.replace('_', '-')}", type=int)
    for key in ("lr", "weight_decay", "dropout"):
        changes.add_argument(f"--{key.replace('_', '-')}", type=float)
    chosen = vars(parser.parse_args(arguments))
    settings = RECIPES[chosen["recipe"]] | {key: chosen[key] for key in KEYS if chosen.get(key) is not None}
    try:
        check(settings)
        for seed in chosen["seeds"]:
            checks.integer("seed", seed, 0)
    except ValueError as error:
        parser.error(str(error))
    failed = 0
    for seed in chosen["seeds"]:
        for activation in chosen["activation"]:
            folder = Path(chosen["folder"]) / f"{chosen['recipe'].replace('/', '-')}-{activation}-{seed}"
            options = dict(data=chosen["data"], tokenizer=chosen["tokenizer"], progress=True)
            try:
                last = run(settings, activation, seed, folder, **options).frame.iloc[-1]
            except FloatingPointError as error:  # the other runs can still be done
                failed = 1
                print(error, file=sys.stderr)
                continue
            shown = [key for key in ("validation_loss", "hellaswag_mean", "hellaswag_sum") if key in last]
            print(f"{folder.name}: " + ", ".join(f"{key} {last[key]:.4f}" for key in shown), flush=True)
    return failed
