"""History: what a training run leaves behind, as a tidy table that is written whole or not at all."""

import contextlib
import datetime
import json
import os
import platform
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from labkit import __version__

MARGIN_COLUMNS = ["head", "seed", "sample", "margin"]  # and, of many runs together, what else tells them apart
_KEY = b"labkit"
_VERSION = 1


@contextlib.contextmanager
def written_whole(path):
    """A binary file that appears at `path`, flushed to the disk, when the block ends, and not at all where it raises.

    Its folder is made. Until then it is there under the name .NAME.PROCESS.tmp, which stays where the process is
    killed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


class History:
    """One row per seed × iteration, the settings of the run, and the margin of every sample at its end.

    frame: pandas DataFrame with columns head, seed, iteration and one for each measure.
    settings: dict of plain values (anything JSON holds), kept inside the file.
    margins: DataFrame with columns head, seed, sample, margin; empty where none were measured. Further columns, which
        the frame has too, tell runs apart that share head and seed.
    """

    def __init__(self, frame, settings=None, margins=None):
        self.frame = frame.reset_index(drop=True)
        self.settings = dict(settings or {})
        self.margins = pd.DataFrame(columns=MARGIN_COLUMNS) if margins is None else margins

    def final(self):
        """The last row of each run."""
        last = self.frame.groupby(self._keys(), sort=False)["iteration"].idxmax()
        return self.frame.loc[last].reset_index(drop=True)

    def _keys(self):
        """The columns that tell runs apart."""
        return [column for column in self.margins.columns if column not in ("sample", "margin")]

    def where(self, **values):
        """The part in which each named column has the given value, or one of a list: where(size="UFM-10", seed=[0,
        1]).
        """
        frame, margins = self.frame, self.margins
        for column, wanted in values.items():
            wanted = [wanted] if isinstance(wanted, str) or not hasattr(wanted, "__iter__") else list(wanted)
            frame, margins = (table[table[column].isin(wanted)] for table in (frame, margins))
        return type(self)(frame, self.settings, margins)

    @classmethod
    def concat(cls, histories):
        """Several runs as one table; their settings are kept as a list under "runs"."""
        histories = list(histories)
        return cls(
            pd.concat([h.frame for h in histories], ignore_index=True),
            {"runs": [h.settings for h in histories]},
            pd.concat([h.margins for h in histories], ignore_index=True),
        )

    def save(self, path):
        """Write one Parquet file, which appears under its name complete or not at all. Returns the path.

        Margins travel as a list column that is null but in the last row of each run. Raises TypeError for
        settings that JSON cannot hold; nothing is written then.
        """
        path = Path(path)
        keys = self._keys()
        per_run = self.margins.sort_values("sample").groupby(keys)["margin"].agg(list)
        last = self.frame.groupby(keys)["iteration"].transform("max") == self.frame["iteration"]
        lists = [
            per_run.get(run) if end else None
            for end, run in zip(last, self.frame[keys].itertuples(index=False, name=None))
        ]
        table = pa.Table.from_pandas(self.frame, preserve_index=False)
        table = table.append_column("margins", pa.array(lists, pa.list_(pa.float64())))
        header = {_KEY: json.dumps({"version": _VERSION, "settings": self.settings, "runs_by": keys}).encode()}
        table = table.replace_schema_metadata({**table.schema.metadata, **header})

        with written_whole(path) as file:
            pq.write_table(table, file, compression="zstd", write_page_checksum=True)
        return path

    @classmethod
    def load(cls, path):
        """Read what `save` wrote. FileNotFoundError where there is no file; ValueError, naming the file, for one that
        is damaged or is not a labkit history."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no history at {path}")
        try:
            table = pq.read_table(path, page_checksum_verification=True)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"{path} is not a readable Parquet file: {error}") from error
        header = (table.schema.metadata or {}).get(_KEY)
        if header is None:
            raise ValueError(f"{path} is a Parquet file, but not a labkit history (its columns: {table.column_names})")
        try:
            header = json.loads(header)
            found, settings = header["version"], header["settings"]
            keys = header.get("runs_by", MARGIN_COLUMNS[:2])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} has a damaged labkit header: {error!r}") from error
        if found != _VERSION:
            raise ValueError(f"{path} is a labkit history of version {found}; this labkit reads version {_VERSION}")
        frame = table.drop_columns("margins").to_pandas()
        last = (
            table.select([*keys, "margins"]).to_pandas().dropna(subset="margins").rename(columns={"margins": "margin"})
        )
        if last.empty:
            return cls(frame, settings)
        margins = last.explode("margin", ignore_index=True).astype({"margin": float})
        margins.insert(len(keys), "sample", margins.groupby(keys).cumcount())
        return cls(frame, settings, margins)


def sample_margins(head, seeds, margins):
    """The tidy table of margins, given as (S, N), of one head."""
    margins = np.asarray(margins)
    seed, sample = np.repeat(list(seeds), margins.shape[1]), np.tile(np.arange(margins.shape[1]), len(margins))
    return pd.DataFrame(dict(zip(MARGIN_COLUMNS, (head, seed, sample, margins.ravel()))))


def provenance(device="cpu"):
    """What a result was made with: versions, machine and date, as plain values for History.settings."""
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name}, {torch.get_num_threads()} threads)",
        "versions": {"labkit": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "date": datetime.date.today().isoformat(),
    }
