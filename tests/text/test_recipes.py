"""Training of language models: the loop against one written out, going on after a stop, and both recipes."""

import copy
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from labkit.history import History
from labkit.text import recipes, training
from labkit.text.bigram import Bigram
from labkit.text.corpora import Batches
from labkit.text.gpt import decay_groups, gpt
from labkit.text.recipes import RECIPES
from labkit.vision.training import processes

TINY = dict(context=16, batch_size=4, micro_batch=2, steps=5, warmup=2, measure_every=2, validation_batches=2)


@pytest.fixture
def corpus(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("To be, or not to be: that is the question.\n" * 60)
    return tmp_path


def tiny(**changes):
    return RECIPES["char-gpt/tinyshakespeare"] | TINY | changes


def test_steps_are_those_of_a_loop_written_out():
    torch.manual_seed(0)
    model = gpt("char", "aglu", vocabulary=50, context=8)
    reference = copy.deepcopy(model)
    text = np.random.default_rng(0).integers(50, size=300)
    batches = Batches([text], 2, context=8, seed=1)

    def optimizer(of):
        return torch.optim.SGD(decay_groups(of, 0.5), lr=0.1, momentum=0.9)  # Adam would blow up the rounding of zeros

    schedule = lambda step: training.cosine(step, 4, 2, 0.1)
    options = dict(name="aglu", steps=4, every=4, accumulate=3, schedule=schedule, clip=0.5)
    history = training.Trainer(model, optimizer(model), batches, dict, **options).run()

    sgd, losses = optimizer(reference), []
    for step, factor in enumerate((0.5, 1.0, 1.0, 0.55)):
        sgd.param_groups[0]["lr"] = sgd.param_groups[1]["lr"] = 0.1 * factor
        parts = [batches.batch(3 * step + part) for part in range(3)]
        tokens, targets = map(torch.cat, zip(*parts))  # six rows at once
        loss = -reference(tokens).logits.log_softmax(-1).gather(-1, targets[..., None]).mean()
        loss.backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in reference.parameters()))
        for p in reference.parameters():
            p.grad *= min(1.0, 0.5 / norm)
        sgd.step()
        sgd.zero_grad()
        losses.append(loss.item())
    assert history.frame["batch_loss"].iloc[-1] == pytest.approx(np.mean(losses), rel=1e-5)
    for (name, p), q in zip(model.named_parameters(), reference.parameters()):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6, msg=name)


def test_no_held_out_batch_counts_twice():
    text = np.random.default_rng(0).integers(3, size=2 * 4 * 5 + 1)  # five batches of two rows of four
    model, batches = Bigram(text, 3), Batches([text], 2, context=4, order="in order")
    measured = recipes.measure(model, batches, 7, None, Accelerator(cpu=True))
    assert measured["validation_loss"] == pytest.approx(model.cross_entropy(text), rel=1e-6)


def test_a_stopped_run_goes_on_bit_for_bit_and_only_with_the_same_settings(corpus):
    settings = tiny(dropout=0.1)
    whole = recipes.run(settings, "aglu", 1, data=corpus).frame
    assert whole["iteration"].tolist() == [0, 2, 4, 5]  # the last stretch is shorter
    stopped = recipes.make(settings, "aglu", 1, corpus / "run", data=corpus).each_row()
    next(stopped), next(stopped)
    resumed = recipes.run(settings, "aglu", 1, corpus / "run", data=corpus).frame
    exact = [column for column in whole.columns if not column.startswith("seconds")]
    assert whole[exact].equals(resumed[exact])
    stored = History.load(corpus / "run" / training.HISTORY)
    assert stored.frame[exact].equals(whole[exact]) and stored.settings["run"]["dropout"] == 0.1
    assert {"kappa_1", "lambda_5"} <= set(whole.columns)
    with pytest.raises(ValueError, match=r"last\.pt cannot be gone on from.*settings"):
        recipes.run(settings | {"lr": 0.5}, "aglu", 1, corpus / "run", data=corpus)
    path = corpus / "run" / training.CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"last\.pt cannot be gone on from"):
        recipes.run(settings, "aglu", 1, corpus / "run", data=corpus)
    path.unlink()
    with pytest.raises(ValueError, match=r"history\.parquet has 5 steps of a run without last\.pt"):
        recipes.run(settings, "aglu", 1, corpus / "run", data=corpus)
    assert History.load(corpus / "run" / training.HISTORY).frame["iteration"].tolist() == [0, 2, 4, 5]


def test_a_folder_is_one_process_s_own(corpus):
    """Two processes at one run would write over each other's checkpoints."""
    script = "import sys; from labkit.text import recipes; recipes.main(sys.argv[1:])"
    folder = corpus / "char-gpt-tinyshakespeare-gelu-0"
    held = recipes.make(tiny(), "gelu", folder=folder, data=corpus)
    words = ["--data", str(corpus), "--folder", str(corpus), "--activation", "gelu"]
    words += ["--context", "16", "--batch-size", "4", "--micro-batch", "2"]
    done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, text=True)
    assert done.returncode and f"RuntimeError: another process is training in {folder}" in done.stderr
    assert not (folder / training.HISTORY).exists()
    held.run()
    assert History.load(folder / training.HISTORY).frame["iteration"].tolist() == [0, 2, 4, 5]


def test_it_learns_a_text_and_starts_from_the_logarithm_of_its_alphabet(corpus):
    history = recipes.run(tiny(steps=40, measure_every=20, batch_size=8, micro_batch=8, warmup=5), "gelu", data=corpus)
    loss = history.frame["validation_loss"]
    assert loss[0] == pytest.approx(math.log(18), abs=0.15) and loss.iloc[-1] < 1.5  # 18 kinds of characters
    assert history.frame["head"].eq("gelu").all()


def test_each_run_of_a_session_keeps_its_precision(corpus):
    """accelerate's runs are all of one precision: that of the first, or after a reset that of the last."""
    images = processes.accelerator("bf16")
    kinds = {"bf16": torch.bfloat16, "no": torch.float32}
    runs = {precision: recipes.make(tiny(precision=precision), "gelu", data=corpus) for precision in kinds}
    processes.accelerator("bf16")
    for precision, run in runs.items():
        seen = set()
        layer = next(module for module in run.model.modules() if isinstance(module, torch.nn.Linear))
        layer.register_forward_hook(lambda module, inputs, output: seen.add((module.training, output.dtype)))
        run.run()
        assert seen == {(True, kinds[precision]), (False, kinds[precision])}
    assert images.mixed_precision == "bf16"


def test_the_recipe_of_gpt2_small_runs_where_shards_are(tmp_path):
    for number, split in enumerate(("val", "train", "train")):
        tokens = np.random.default_rng(number).integers(60, size=400).astype(np.uint16)
        np.save(tmp_path / f"edufineweb_{split}_{number:06d}", tokens)
    recipe = RECIPES["gpt2-small/fineweb-edu"]
    assert recipe["batch_size"] * recipe["context"] == 2**19 and recipe["vocabulary"] == 50304
    settings = recipe | TINY | dict(size="char", vocabulary=60, hellaswag=False)
    history = recipes.run(settings, "aglu", data=tmp_path)
    assert np.isfinite(history.frame["validation_loss"]).all() and history.settings["run"]["precision"] == "bf16"
    with pytest.raises(ValueError, match="HellaSwag needs its file"):
        recipes.run(settings | {"hellaswag": True}, "aglu", data=tmp_path)
    with pytest.raises(ValueError, match=r"0 … 49"):
        recipes.run(settings | {"vocabulary": 50}, "aglu", data=tmp_path)


def test_the_command_line_trains_and_says_where_a_run_diverged(corpus, capsys):
    command = ["--data", str(corpus), "--folder", str(corpus / "runs"), "--steps", "2", "--measure-every", "1"]
    command += ["--context", "8", "--batch-size", "4", "--micro-batch", "4", "--validation-batches", "1"]
    assert recipes.main([*command, "--activation", "gelu", "aglu"]) == 0
    out = capsys.readouterr().out
    assert "char-gpt-tinyshakespeare-aglu-0: validation_loss" in out
    assert sorted(p.name for p in (corpus / "runs").iterdir()) == [
        f"char-gpt-tinyshakespeare-{activation}-0" for activation in ("aglu", "gelu")
    ]
    assert recipes.main([*command, "--activation", "relu", "--lr", "1e30", "--warmup", "0"]) == 1
    assert "relu, seed 0: stopped at step 2" in capsys.readouterr().err
    for words, reason in (
        (["--seeds", "-1"], "seed must be an integer"),
        (["--context", "0"], "context must be an int"),
    ):
        with pytest.raises(SystemExit):
            recipes.main([*command, *words])
        assert reason in capsys.readouterr().err


def test_settings_that_cannot_be_are_refused(corpus):
    for changes, message in (
        (dict(batch=3), "unknown: .*batch"),
        (dict(batch_size=3), "no multiple of micro_batch=2"),
        (dict(steps=0), "steps must be an integer of at least 1, got 0"),
        (dict(context=0), "context must be an integer of at least 1, got 0"),
        (dict(context=300), "601 tokens, a batch of 2 rows of context=300 and the last target; got arrays of .258"),
        (dict(precision="fp16"), "precision"),
        (dict(lr=-1.0), "lr must be"),
        (dict(warmup=-1), "warmup must be"),
    ):
        with pytest.raises(ValueError, match=message):
            recipes.run(tiny(**changes), "gelu", data=corpus)
    with pytest.raises(ValueError, match="seed must be an integer of at least 0, got -1"):
        recipes.run(tiny(), "gelu", -1, data=corpus)
    with pytest.raises(ValueError, match="activation must be one of"):
        recipes.run(tiny(), "swish", data=corpus)
