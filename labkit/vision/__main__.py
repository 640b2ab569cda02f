"""The command line of experiments on images: recipes, heads and seeds in; histories out.

    python -m labkit.vision --recipe digits --folder runs
    python -m labkit.vision --recipe guiding/cifar10 --head implicit --seeds 0 1 2 --epochs 50 --folder runs
    torchrun --nproc_per_node 4 -m labkit.vision …                        on several GPUs, or processors

Each run keeps its checkpoints and its history.parquet in a folder of its own. The same command once more goes on where
it was stopped, and leaves alone what is finished.
"""

import argparse
import json
import sys

import torch

from labkit import checks, heads
from labkit.vision import build
from labkit.vision.fields import CHOICES, FIELDS, check
from labkit.vision.recipes import RECIPES
from labkit.vision.training import processes

SAID = {"head_options": 'such as {"fixed": {"frame": "haar"}}; other options of the recipe stay as they are'}
SHOWN = ("accuracy", "test_accuracy", "loss", "nc1")


def value_of(text):
    """What a word of the command line means: a number, a list or a dict as JSON has it, True, False, None, or the word.

    >>> [value_of(text) for text in ("5", "1e-3", "none", "false", "cosine", '{"fixed": {"frame": "haar"}}')]
    [5, 0.001, None, False, 'cosine', {'fixed': {'frame': 'haar'}}]
    """
    if text.lower() in ("none", "true", "false"):
        return {"none": None, "true": True, "false": False}[text.lower()]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parser():
    made = argparse.ArgumentParser(
        prog="python -m labkit.vision",
        description="Train heads on images.",
        epilog="The same command again goes on where it was stopped.",
    )
    made.add_argument("--recipe", choices=RECIPES, default="guiding/cifar10", help="where to start from (%(default)s)")
    made.add_argument("--head", nargs="+", choices=heads.VARIANTS, help="one or more heads, in place of the recipe's")
    made.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4], help="one or more seeds (0 1 2 3 4)")
    made.add_argument("--folder", required=True, help="where the runs are kept, each in a folder of its own")
    made.add_argument("--root", help="folder of the data (LABKIT_DATA, else data/)")
    made.add_argument("--download", action="store_true", help="let torchvision fetch the data if they are not there")
    made.add_argument("--threads", type=int, help="processor threads of a run (torch's own choice)")
    fields = made.add_argument_group("in place of what the recipe says (labkit/vision/recipes.py has what they mean)")
    for name, default in FIELDS.items():
        if name != "head":
            many = isinstance(default, list) or name in ("mean", "std", "measure_at")
            said = ", ".join(str(choice).lower() for choice in CHOICES.get(name, ())) or SAID.get(name)
            options = {"nargs": "+"} if many else {}
            options |= {"type": value_of, "metavar": "VALUE", "default": argparse.SUPPRESS, "help": said}
            fields.add_argument(f"--{name.replace('_', '-')}", **options)
    return made


def chosen(arguments=None):
    """The arguments, and the settings: a recipe with what they change."""
    made = parser()
    arguments = made.parse_args(arguments)
    changes = {name: value for name, value in vars(arguments).items() if name in FIELDS}
    if changes["head"] is None:
        del changes["head"]
    for name in ("mean", "std", "measure_at"):  # a number alone is no list, nor is "none"
        if len(changes.get(name, ())) == 1:
            (changes[name],) = changes[name]
    try:
        for seed in arguments.seeds:
            checks.integer("seed", seed, 0)
        if arguments.threads is not None:
            checks.integer("threads", arguments.threads, 1)
        recipe = RECIPES[arguments.recipe]
        check(recipe | changes)
        if "head_options" in changes:  # one option that is named leaves the others of the recipe as they are
            own = recipe["head_options"]
            changes["head_options"] = own | {h: own.get(h, {}) | more for h, more in changes["head_options"].items()}
        return arguments, recipe | changes
    except ValueError as error:
        made.error(str(error))


def main(arguments=None):
    """Run everything; returns the exit status, 1 where a run diverged."""
    arguments, settings = chosen(arguments)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    lead, failed = processes.accelerator().is_main_process, 0
    options = {"root": arguments.root, "download": arguments.download, "progress": True}
    for seed in arguments.seeds:
        for head in settings["head"]:
            try:
                history = build.run(settings, head, seed, arguments.folder, **options)
            except FloatingPointError as error:  # the other runs can still be done
                failed = 1
                lead and print(error, file=sys.stderr)
                continue
            last = history.frame.iloc[-1]
            name = build.Runs(arguments.folder).path(build.described(settings, head, seed)).parent.name
            lead and print(f"{name}: " + ", ".join(f"{k} {last[k]:.4g}" for k in SHOWN if k in last), flush=True)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return failed


if __name__ == "__main__":
    sys.exit(main())
