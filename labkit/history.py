"""History, what a training run leaves behind, as a tidy table that is written whole or not at all; and Store, a folder
of runs, each found again by its settings."""

import dataclasses
import datetime
import hashlib
import json
import platform
import re
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import ArrayLike

from labkit import __version__
from labkit.system import written_whole

MARGIN_COLUMNS = ["head", "seed", "sample", "margin"]  # and, of many runs together, what else tells them apart
_KEY = b"labkit"
_VERSION = 1
_GROUPS = {"sort": False, "dropna": False}  # a run has NaN for an option it does not have


def plain(settings: dict) -> dict:
    """Settings as JSON gives them back: numbers of NumPy and torch become Python's, dataclasses dicts, tuples lists.

    Raises TypeError for what JSON cannot hold.

    >>> plain({"seed": np.int64(3), "sizes": (1, 2)})
    {'seed': 3, 'sizes': [1, 2]}
    """
    return json.loads(json.dumps(settings, default=_plain))


def _plain(value):
    if dataclasses.is_dataclass(value):
        return dataclasses.asdict(value)
    if hasattr(value, "tolist"):  # of NumPy or torch, a number or an array
        return value.tolist()
    raise TypeError(f"settings must be plain values, got a {type(value).__name__}: {value!r}")


class History:
    """One row per seed × iteration, the settings of the run, and the margin of every sample at its end.

    frame: pandas DataFrame with columns head, seed, iteration and one for each measure.
    settings: dict of plain values (anything JSON holds), kept inside the file.
    margins: DataFrame with columns head, seed, sample, margin; empty where none were measured. Further columns, which
        the frame has too, tell runs apart that share head and seed.

    >>> frame = pd.DataFrame({"head": "fixed", "seed": 0, "iteration": [0, 1], "loss": [2.0, 1.0]})
    >>> History(frame, {"lr": 0.1}).final()["loss"].tolist()
    [1.0]
    """

    def __init__(self, frame: pd.DataFrame, settings: dict | None = None, margins: pd.DataFrame | None = None):
        self.frame = frame.reset_index(drop=True)
        self.settings = dict(settings or {})
        self.margins = pd.DataFrame(columns=MARGIN_COLUMNS) if margins is None else margins

    def final(self) -> pd.DataFrame:
        """The last row of each run.

        Raises ValueError where rows of several runs cannot be told apart, as a run's rows would be lost.
        """
        keys = self._keys()
        twice = self.frame[self.frame.duplicated([*keys, "iteration"], keep=False)]
        if len(twice):
            where = dict(twice[[*keys, "iteration"]].iloc[0])
            differ = twice.merge(pd.DataFrame([where])).astype(str).nunique()
            raise ValueError(
                f"several rows have {', '.join(f'{k} {v}' for k, v in where.items())}, and no column of `margins` "
                f"tells their runs apart; they differ in {', '.join(differ[differ > 1].index) or 'nothing'}"
            )
        return self.frame.loc[self.frame.groupby(keys, **_GROUPS)["iteration"].idxmax()].reset_index(drop=True)

    def _keys(self):
        """The columns that tell runs apart."""
        return [column for column in self.margins.columns if column not in ("sample", "margin")]

    def where(self, **values: Any):
        """The part where each named column has the given value or one of a list: where(size="UFM-10", seed=[0, 1])."""
        frame, margins, keys = self.frame, self.margins, self._keys()
        for column, wanted in values.items():
            wanted = [wanted] if isinstance(wanted, str) or not hasattr(wanted, "__iter__") else list(wanted)
            if column not in keys or column not in frame:
                raise ValueError(f"where() takes what tells runs apart, {', '.join(keys)}; got {column!r}")
            frame, margins = (table[table[column].isin(wanted)] for table in (frame, margins))
        return type(self)(frame, self.settings, margins)

    @classmethod
    def concat(
        cls, histories: Iterable["History"], columns: Iterable[dict] | None = None, always: Iterable[str] = ()
    ) -> "History":
        """Several runs as one table; their settings are kept as a list under "runs".

        columns: for each run a dict of what may tell it apart. Those in which runs differ, and those in `always`,
            come first, with NaN for a run that has no such entry.
        """
        histories = list(histories)
        columns = [{} for _ in histories] if columns is None else list(columns)
        differs = lambda name: any(one.get(name, np.nan) != columns[0].get(name, np.nan) for one in columns)
        names = dict.fromkeys(n for one in columns for n in one if n in always or differs(n))
        frames, margins = ([], [])
        for history, one in zip(histories, columns):
            for table, tables in ((history.frame, frames), (history.margins, margins)):
                more = {name: one.get(name, np.nan) for name in names if name not in history.frame.columns}
                tables.append(table.assign(**more)[[*more, *table.columns]])
        return cls(_stacked(frames), {"runs": [h.settings for h in histories]}, _stacked(margins))

    def save(self, path: str | Path) -> Path:
        """Write one Parquet file, which appears under its name complete or not at all. Returns the path.

        Margins travel as a list column that is null but in the last row of each run. Raises TypeError for settings
        that JSON cannot hold, ValueError for several margins of one sample, as of runs that cannot be told apart, and
        OSError, naming the file, where it cannot be written; nothing has changed then.
        """
        path, keys = Path(path), self._keys()
        margins = self.margins.drop_duplicates([*keys, "sample", "margin"]).sort_values("sample")
        if (twice := margins[margins.duplicated([*keys, "sample"])]).size:
            raise ValueError(f"several margins of one sample: {dict(twice[[*keys, 'sample']].iloc[0])}")
        per_run = margins.groupby(keys, **_GROUPS)["margin"].agg(list).reset_index()
        per_run = self.frame[keys].merge(per_run.astype(self.frame[keys].dtypes), on=keys, how="left")["margin"]
        single = ~self.frame.duplicated([*keys, "iteration"])  # of a run that is there twice one has them
        last = single & (self.frame.groupby(keys, **_GROUPS)["iteration"].transform("max") == self.frame["iteration"])
        lists = [run if end and isinstance(run, list) else None for end, run in zip(last, per_run)]
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        table = table.append_column("margins", pa.array(lists, pa.list_(pa.float64())))
        header = {"version": _VERSION, "settings": plain(self.settings), "runs_by": keys}
        table = table.replace_schema_metadata({**table.schema.metadata, _KEY: json.dumps(header).encode()})
        with written_whole(path) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "History":
        """Read what `save` wrote. FileNotFoundError where there is no file; ValueError, naming the file, for one that
        is damaged or is not a labkit history."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no history at {path}")
        try:
            with path.open("rb") as file:  # by its name pyarrow opens it twice, and it may be replaced in between
                table = pq.read_table(file, page_checksum_verification=True)
        except Exception as error:  # damage can show as any of a dozen errors of pyarrow
            raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
        header = (table.schema.metadata or {}).get(_KEY)
        if header is None:
            raise ValueError(f"{path} is a Parquet file, but not a labkit history (its columns: {table.column_names})")
        try:
            header = json.loads(header)
            found = header["version"]
            if found == _VERSION:
                keys = header.get("runs_by", MARGIN_COLUMNS[:2])
                return cls(table.drop_columns("margins").to_pandas(), header["settings"], cls._margins(table, keys))
        except Exception as error:
            raise ValueError(f"{path} has a damaged labkit header: {error!r}") from error
        raise ValueError(f"{path} is a labkit history of version {found}; this labkit reads version {_VERSION}")

    @staticmethod
    def _margins(table, keys):
        """The margins in a file's table; where it has none, no rows, but the columns that tell its runs apart."""
        last = table.select([*keys, "margins"]).to_pandas().dropna(subset="margins")
        if last.empty:
            return pd.DataFrame(columns=[*keys, "sample", "margin"])
        margins = last.rename(columns={"margins": "margin"}).explode("margin", ignore_index=True)
        margins.insert(len(keys), "sample", margins.groupby(keys, **_GROUPS).cumcount())
        return margins.astype({"margin": float})


def _stacked(tables):
    """Tables as one; those without a row have no say in the types of its columns."""
    return pd.concat([table for table in tables if len(table)] or tables[:1], ignore_index=True)


class Store:
    """A folder of runs, each a History in a file that is named after the run's settings.

    A run is found again only where all its settings are the same. Several processes can work in one folder. Studies
    with names, settings or columns of their own overwrite `name`, `settings_of` and `columns`.

    >>> import tempfile
    >>> store = Store(tempfile.mkdtemp())
    >>> store.get({"head": "fixed", "lr": 0.1}) is None
    True
    >>> frame = pd.DataFrame({"head": "fixed", "seed": 0, "iteration": [0, 1], "loss": [2.0, 1.0]})
    >>> for lr in (0.1, 0.2):
    ...     path = store.put({"head": "fixed", "lr": lr}, History(frame))
    >>> store.get({"head": "fixed", "lr": 0.1}).frame["loss"].tolist()
    [2.0, 1.0]
    >>> list(store.load().frame.columns)
    ['lr', 'head', 'seed', 'iteration', 'loss']
    """

    always: tuple[str, ...] = ()  # columns that a table of runs has even where all runs agree in them

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)

    def name(self, settings: dict) -> str:
        """What the file of a run is called, without ".parquet"; a "/" puts it into a folder of its own."""
        text = "-".join(f"{key}-{value}" for key, value in _flat(settings).items())
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
        return f"{re.sub('[^0-9A-Za-z._-]+', '_', text)[:100]}-{digest[:8]}"

    def settings_of(self, history: History) -> dict:
        """The settings that a run was made with. KeyError, TypeError or ValueError where it has none."""
        return history.settings["run"]

    def columns(self, settings: dict) -> dict:
        """What may tell a run apart in a table of many: column names and values."""
        return _flat(settings)

    def path(self, settings: dict) -> Path:
        """Where the run with these settings is, or will be."""
        return self.folder / f"{self.name(plain(settings))}.parquet"

    def get(self, settings: dict) -> History | None:
        """The finished run with exactly these settings; None where there is none.

        A file of that name that is damaged, foreign or of other settings is named in a warning, and counts as none.
        """
        path, wanted = self.path(settings), plain(settings)
        try:
            history, found = self._read(path)
            if found == wanted:
                return history
            reason = f"{path} was made with other settings than were asked for: {differences(found, wanted)}"
        except FileNotFoundError:
            return None
        except ValueError as error:
            reason = str(error)
        warnings.warn(f"{reason}; this run is done again", stacklevel=3)
        return None

    def put(self, settings: dict, history: History) -> Path:
        """Keep a finished run: its file appears whole or not at all, in place of one of that name. Returns the path."""
        settings = plain(settings)
        return History(history.frame, {**history.settings, "run": settings}, history.margins).save(self.path(settings))

    def load(self, pattern: str = "*") -> History:
        """All runs whose names match a glob pattern, as one table (see `join`).

        Raises FileNotFoundError where there are none, ValueError, naming the file, for a damaged or foreign one.
        """
        paths = sorted(self.folder.glob(f"{pattern}.parquet"))
        if not paths:
            raise FileNotFoundError(f"no runs named {pattern} in {self.folder.absolute()}")
        return self.join(self._read(path)[0] for path in paths)

    def join(self, histories: Iterable[History]) -> History:
        """Runs as one table, with a column for every setting in which they differ; NaN where a run does not have it."""
        histories = list(histories)
        return History.concat(histories, [self.columns(plain(self.settings_of(h))) for h in histories], self.always)

    def _read(self, path):
        history = History.load(path)
        try:
            return history, plain(self.settings_of(history))
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise ValueError(f"{path} is a History, but not of a run of this kind: {error!r}") from error


def differences(there: dict, here: dict) -> str:
    """In words, what differs between the settings of a file and those asked for; of settings within settings too.

    >>> differences({"lr": 0.1, "run": {"seed": 0}}, {"lr": 0.2, "run": {"seed": 1}})
    'lr is 0.1 there, 0.2 here; seed is 0 there, 1 here'
    """
    pairs = {key: (there.get(key, "missing"), here.get(key, "missing")) for key in {**there, **here}}
    words = lambda key, a, b: differences(a, b) if type(a) is type(b) is dict else f"{key} is {a!r} there, {b!r} here"
    return "; ".join(dict.fromkeys(words(key, a, b) for key, (a, b) in pairs.items() if a != b))


def _flat(settings):
    """Settings without dicts inside them, lists as text, as columns of a table: "lr", "head.lr" where two have it."""
    parts = [(key, _flat(value) if isinstance(value, dict) else {key: value}) for key, value in settings.items()]
    names = [name for _, part in parts for name in part]
    named = lambda key, name: name if key == name or names.count(name) == 1 else f"{key}.{name}"
    return {named(key, k): str(v) if isinstance(v, list) else v for key, part in parts for k, v in part.items()}


def sample_margins(head: str, seeds: Iterable[int], margins: ArrayLike) -> pd.DataFrame:
    """The tidy table of margins, given as (S, N), of one head.

    >>> sample_margins("fixed", [7], [[0.5, 1.0]]).values.tolist()
    [['fixed', 7, 0, 0.5], ['fixed', 7, 1, 1.0]]
    """
    margins = np.asarray(margins)
    seed, sample = np.repeat(list(seeds), margins.shape[1]), np.tile(np.arange(margins.shape[1]), len(margins))
    return pd.DataFrame(dict(zip(MARGIN_COLUMNS, (head, seed, sample, margins.ravel()))))


def provenance(device: torch.device | str = "cpu") -> dict:
    """What a result was made with: versions, machine and date, as plain values for History.settings.

    >>> provenance("cpu")["versions"]["labkit"] == __version__, len(provenance("cpu"))
    (True, 3)
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "versions": {"labkit": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
