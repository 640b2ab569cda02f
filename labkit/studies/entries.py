"""The entries of evidence.toml, and the runs that they ask for.

An entry has a kind (ufm, images or text), a recipe unless it is a UFM, settings that change the recipe, and a run for
each head, seed and row of `vary`, a list of tables that change the settings once more: vary = [{ lr = 0.1 }, { lr = 1.0
}]. A row may have a name; by_head = { implicit = { lr = 0.03 } } changes the settings of one head, before `vary` does;
"none" stands for None, which TOML does not have. Of text, `head` is the activation. A long-tailed run also leaves what
it says of the test images (`labkit.vision.outputs`), as NAME-outputs.npz. Margins of many samples are most of a file:
margins = 3 keeps three decimals of each, margins = "none" leaves them out.
"""

import tomllib
import warnings
from dataclasses import dataclass, field
from pathlib import Path

from labkit import checks, heads, ufm
from labkit.history import History, Store
from labkit.studies.ufms import sweep

LIST = "evidence.toml"
FIELDS = {"name", "kind", "serves", "heads", "seeds", "hours", "settings"}  # of an entry
OPTIONAL = {"vary", "by_head", "margins"}
KINDS = ("ufm", "images", "text")


class Networks(Store):
    """Runs on images or text of one entry: a file for each head, seed and row of `vary`. name: of a run's file; tailed:
    whether NAME-outputs.npz has to be beside it.
    """

    def __init__(self, folder: str | Path, name: str, tailed: bool = False):
        super().__init__(folder)
        self._name, self.outputs = name, self.folder / f"{name}-outputs.npz" if tailed else None

    def get(self, settings: dict) -> History | None:
        history = super().get(settings)
        if history is not None and self.outputs is not None:
            from labkit.vision.outputs import Outputs

            try:
                Outputs.load(self.outputs)
            except (FileNotFoundError, ValueError) as error:
                warnings.warn(f"{error}; this run is done again", stacklevel=3)
                return None
        return history

    def name(self, settings: dict) -> str:
        return self._name


@dataclass(frozen=True)
class Run:
    """One run of an entry of the list. settings: all that it is made with; hours: of one core, as the list says;
    varied: what its row of `vary` is called, its name or the settings that it changes, such as lr-0.1; margins: how
    many decimals of them are kept, "none" for no margins, None for all there is.
    """

    entry: str
    kind: str
    serves: str
    hours: float
    settings: dict = field(hash=False)
    varied: str = ""
    margins: int | str | None = None

    @property
    def name(self) -> str:
        """Of its file: head, changes and seed, such as implicit-lr-0.1-seed-0."""
        return "-".join(filter(None, [self.settings["head"], self.varied, "seed", str(self.settings["seed"])]))

    def __str__(self) -> str:
        return f"{self.entry}: {self.name}"

    @property
    def recipe(self) -> dict:
        """The settings without head and seed, as what trains networks takes them."""
        return {key: value for key, value in self.settings.items() if key not in ("head", "seed")}

    def store(self, results: str | Path) -> Store:
        """Where its result goes: UFMs of the paper's sizes to those of `ufms.sweep`, others to ufm-control,
        so that nobody takes them for the paper's; others to a folder of the entry.
        """
        if self.kind != "ufm":
            return Networks(Path(results) / self.entry, self.name, self.long_tailed)
        papers = sweep.size(ufm.UFM(**self.settings["spec"])) in sweep.SIZES
        return sweep.Runs(Path(results) / ("ufm" if papers else "ufm-control"))

    def folder(self, runs: str | Path) -> Path:
        """Where it keeps what it needs until it has ended."""
        return Path(runs) / self.entry / self.name

    @property
    def long_tailed(self) -> bool:
        """Whether it is a run on images that also leaves what it says of its test images."""
        if self.kind != "images":
            return False
        from labkit.vision import build

        return build.is_long_tailed(self.settings)

    def outputs(self, folder: str | Path) -> Path | None:
        """The file that a finished long-tailed run leaves in its folder beside its History; None for any other."""
        if not self.long_tailed:
            return None
        from labkit.vision import build

        return build.path_of_outputs(self.recipe, self.settings["head"], self.settings["seed"], folder)

    def train(self, folder: str | Path) -> History:
        """Make it, from its last checkpoint in `folder` where there is one (UFMs, of some minutes, have none)."""
        if self.kind == "ufm":
            return sweep.train(self.settings)
        head, seed = self.settings["head"], self.settings["seed"]
        if self.kind == "text":
            from labkit.studies import language  # only here, as below: UFMs need neither library

            return language.train(self.recipe, head, seed, folder)
        from labkit.vision import build

        return build.run(self.recipe, head, seed, folder)

    def kept(self, history: History) -> History:
        """The History as it is stored, with as much of the margins as the list says."""
        if self.margins is None:
            return history
        if self.margins == "none":
            return History(history.frame, history.settings | {"margins": "left out"})
        rounded = history.margins.assign(margin=history.margins["margin"].round(self.margins))
        return History(history.frame, history.settings | {"margins": f"to {self.margins} decimals"}, rounded)


def read(path: str | Path = LIST) -> list[Run]:
    """The runs of a list in its order, within an entry seed by seed. ValueError, naming the entry, for a bad one."""
    runs = []
    for k, entry in enumerate(tomllib.loads(Path(path).read_text(encoding="utf-8")).get("runs", []), start=1):
        try:
            checks.one_of("kind", entry.get("kind"), KINDS)
            wanted = FIELDS | (set() if entry["kind"] == "ufm" else {"recipe"})
            if missing := wanted - entry.keys():
                raise ValueError(f"missing: {', '.join(sorted(missing))}")
            if unknown := entry.keys() - wanted - OPTIONAL:
                raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
            margins = entry.get("margins")
            if not (margins in (None, "none") or (type(margins) is int and margins >= 0)):
                raise ValueError(f'margins must be a number of decimals or "none", got {margins!r}')
            by_head = entry.get("by_head", {})
            if not (isinstance(by_head, dict) and by_head.keys() <= set(entry["heads"])):
                raise ValueError(f"by_head must be a table of {', '.join(entry['heads'])}, got {by_head!r}")
            about = (entry["name"], entry["kind"], entry["serves"], float(entry["hours"]))
            for seed in entry["seeds"]:
                for varied in entry.get("vary", [{}]):
                    for head in entry["heads"]:
                        changed = {key: value for key, value in varied.items() if key != "name"}
                        named = varied.get("name", "-".join(f"{key}-{value}" for key, value in varied.items()))
                        runs.append(Run(*about, _settings(entry, head, seed, changed), named, margins))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}, entry {k} ({entry.get('name', 'without a name')}): {error}") from error
    names = [str(run) for run in runs]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"{path} has the same run twice: {', '.join(sorted(twice))}")
    return runs


def _settings(entry, head, seed, varied):
    changes = _with_none(entry["settings"] | entry.get("by_head", {}).get(head, {}) | varied)
    if entry["kind"] == "ufm":
        checks.one_of("head", head, tuple(heads.VARIANTS))
        grid = {key: [value] for key, value in changes.items()}
        (settings,) = sweep.expand(
            grid | {"spec": [ufm.UFM(**changes["spec"])], "head": [head], "seed": [seed]}
        ).values()
        return settings
    if entry["kind"] == "text":
        from labkit.text import gpt, recipes

        checks.one_of("activation", head, tuple(gpt.ACTIVATIONS))
        return recipes.check(recipes.RECIPES[entry["recipe"]] | changes) | {"head": head, "seed": seed}
    from labkit.vision import build, recipes

    checks.one_of("head", head, tuple(heads.VARIANTS))
    return build.described(recipes.RECIPES[entry["recipe"]] | changes, head, seed)


def _with_none(value):
    """None for every "none" in a value of TOML, at any depth of its tables."""
    if isinstance(value, dict):
        return {key: _with_none(item) for key, item in value.items()}
    return None if value == "none" else value
