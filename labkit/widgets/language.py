"""Language models to play with: a prompt and what comes after it, a HellaSwag item, and classes beyond dimensions."""

from typing import Any

import ipywidgets as widgets
import numpy as np
import torch

from labkit import etf, plots, ufm
from labkit.history import History
from labkit.text import hellaswag
from labkit.text.writing import following
from labkit.widgets.base import Explorer, menu, slider, text_box


class PromptExplorer(Explorer):
    """Write a prompt and watch a character model go on: at each place the likeliest next characters, and the one drawn.

    model: called as a model of transformers. vocabulary: its, with encode, decode and size. length: so many
    characters are written.
    """

    def __init__(self, model: torch.nn.Module, vocabulary: Any, prompt: str = "ROMEO:\n", length: int = 160):
        self.model, self.vocabulary, self.prompt, self.length = model, vocabulary, prompt, length
        self.names = [vocabulary.decode([k]) for k in range(vocabulary.size)]
        self._written = {}
        super().__init__()

    def controls(self):
        late = dict(continuous_update=False)
        return {
            "prompt": text_box("prompt", self.prompt.replace("\n", "⏎"), "⏎ is the end of a line"),
            "temperature": slider(
                "temperature", 0.8, 0.0, 1.5, 0.1, "0: always the likeliest", readout_format=".1f", **late
            ),
            "seed": slider("seed", 0, 0, 20, 1, "of the draws", **late),
            "place": slider("characters written", 0, 0, self.length, 1, "step through what the model wrote"),
        }

    def written(self, prompt: str, temperature: float, seed: int):
        """(tokens, probabilities (length, vocabulary)) that the model writes after a prompt; kept.

        Raises ValueError for a prompt with a character that the model does not know.
        """
        key = prompt, temperature, seed
        if key not in self._written:
            tokens = self.vocabulary.encode(prompt.replace("⏎", "\n"))
            found = list(following(self.model, tokens, self.length + 1, temperature=temperature, seed=seed))
            self._written[key] = [token for token, _ in found], torch.stack([p for _, p in found])
        return self._written[key]

    def figure(self, prompt: str, temperature: float, seed: int, place: int):
        try:
            drawn, probabilities = self.written(prompt, temperature, seed)
        except ValueError as error:
            return plots.language.next_tokens([" "], [0.0], None, str(error))
        before = prompt.replace("⏎", "\n") + self.vocabulary.decode(drawn[:place])
        p = probabilities[place]
        bits = -(p * p.clamp(min=1e-30).log2()).sum().item()
        came = plots.language.visible(self.names[drawn[place]])
        title = f"after {place} characters: next comes {came}, entropy {bits:.2f} bits"
        return plots.language.next_tokens(self.names, p, drawn[place], title, plots.language.wrapped(before))


class HellaSwagExplorer(Explorer):
    """Answer HellaSwag items oneself, and only then see what a model makes of them.

    model, tokenizer: as in `hellaswag.score`. tasks: of `hellaswag.read`, or `hellaswag.MADE_UP`.
    """

    def __init__(self, model: torch.nn.Module, tokenizer: Any, tasks: hellaswag.Tasks = hellaswag.MADE_UP):
        self.model, self.tokenizer, self.tasks = model, tokenizer, tasks
        self.answers = {}  # number of the item -> the first answer, which counts
        self._scores, self._item = {}, 0
        super().__init__()

    def controls(self):
        choices = [("not yet", None), *((letter, k) for k, letter in enumerate("ABCD"))]
        return {
            "item": slider("item", 0, 0, len(self.tasks) - 1, 1, "which task", continuous_update=False),
            "answer": menu("your answer", choices, None, "the first one counts"),
        }

    def score(self, item: int):
        """The `Score` of one item; kept."""
        if item not in self._scores:
            one = hellaswag.Tasks(self.tasks.tasks[item : item + 1], self.tasks.prompt)
            self._scores[item] = hellaswag.score(self.model, self.tokenizer, one)
        return self._scores[item]

    def _put(self, values):
        super()._put(values)
        if values.get("answer") is not None:  # set together with an item, it is the answer to that item
            self._item = self.state["item"]

    def redraw(self):
        """Draw the item. Another item comes with the answer that it had; an answer once given stays."""
        item, answer = self.state["item"], self.state["answer"]
        if item == self._item and answer is not None:
            self.answers.setdefault(item, answer)
        self._item, before = item, self._quiet
        self._quiet = True
        self.widgets["answer"].value = self.answers.get(item)
        self._quiet = before
        super().redraw()

    def figure(self, item: int, answer: int | None):
        task = self.tasks.tasks[item]
        if answer is None:
            return plots.language.endings(
                task.context, task.endings, None, None, None, None, f"item {item + 1}: which ending?"
            )
        found = self.score(item)
        model = int(found.chosen("mean")[0])
        said = f"right is {'ABCD'[task.label]}, you said {'ABCD'[answer]}, the model {'ABCD'[model]}"
        title = f"item {item + 1}: {said}<br>{self._tally()}"
        return plots.language.endings(
            task.context, task.endings, found.losses[0], found.tokens[0], task.label, answer, title
        )

    def _tally(self):
        mine = sum(answer == self.tasks.tasks[k].label for k, answer in self.answers.items())
        theirs = sum(int(self.score(k).right("mean")) for k in self.answers)
        return f"so far: you {mine} of {len(self.answers)}, the model {theirs}"


class ManyClassesExplorer(Explorer):
    """What replaces the simplex when classes outnumber dimensions: a sphere trained live at C/d, and the stored study.

    study: the History of `studies.ufms.many_classes`. each, iterations: of the live training in three dimensions.
    """

    DIM = 3

    def __init__(self, study: History, each: int = 12, iterations: int = 600):
        self.table, self.each, self.iterations = study.final(), each, iterations
        sizes = self.table[["num_classes", "dim"]].drop_duplicates()
        bounds = {(c, d): etf.minimal_margin_bound(c, d) for c, d in sizes.itertuples(index=False)}
        self.table["bound"] = [bounds[pair] for pair in zip(self.table["num_classes"], self.table["dim"])]
        self._kept = {}
        super().__init__()

    def controls(self):
        ratios = sorted({c / d for c, d in zip(self.table["num_classes"], self.table["dim"])})
        options = [(f"{ratio:.4g}", ratio) for ratio in ratios]
        late = dict(continuous_update=False)
        return {
            "ratio": menu(
                "C/d", options, 2.0 if 2.0 in ratios else ratios[0], "classes over dimensions", widgets.SelectionSlider
            ),
            "seed": slider("seed", 0, 0, 20, 1, "of the picture", **late),
        }

    def classes(self, ratio: float) -> int:
        """The number of classes of the picture, in three dimensions; d+1 where the study has d+1."""
        dim = int(self.table["dim"].iloc[0])
        if abs(ratio * dim - (dim + 1)) < 0.5:
            return self.DIM + 1
        return max(2, round(ratio * self.DIM))

    def live(self, ratio: float, seed: int):
        """Features (3, n), their classes (n,) and class vectors (3, C), trained on the unit sphere; kept."""
        C = self.classes(ratio)
        if (C, seed) not in self._kept:
            trainer = ufm.Trainer(ufm.UFM(C, C * self.each, self.DIM), "standard", [seed], gain=2.0)
            for _ in range(self.iterations):
                trainer.step()
            with torch.no_grad():
                features = (trainer.head.normalize(trainer.features)[0] / trainer.head.temperature).mT.double()
                vectors = trainer.head.weight[0].mT.double()
            self._kept[C, seed] = features.numpy(), trainer.targets.numpy(), vectors.numpy()
        return self._kept[C, seed]

    def figure(self, ratio: float, seed: int):
        points, targets, arrows = self.live(ratio, seed)
        C = arrows.shape[1]
        cosines = (arrows.T @ arrows)[np.triu_indices(C, 1)]
        here = self.table[np.isclose(self.table["num_classes"] / self.table["dim"], ratio)]
        size, dim = here[["num_classes", "dim"]].iloc[0]
        margin = here["minimal_margin"].median()
        angle = np.rad2deg(np.arccos(min(1.0, cosines.max())))
        title = (
            f"sphere: {C} classes in {self.DIM} dimensions, the nearest two at {angle:.1f}°<br>"
            f"study: {size} classes in {dim} dimensions, minimal margin {margin:.3f}, NC2 {here['nc2'].median():.2g}"
        )
        return plots.language.many_classes(self.table, ratio, points, targets, arrows, title)
