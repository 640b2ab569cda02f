"""Checkpoints that are there whole or not at all, and that know when they are damaged.

A file is what torch.save wrote, so that `torch.load(path)` reads it; but that does not notice changed bits, and `load`
does: beside each file is its SHA-256. Files are written under another name, flushed to the disk and renamed. Of a
folder's checkpoints the last KEEP stay.
"""

import hashlib
import io
import os
import pickle
import re
import warnings
from pathlib import Path
from typing import Any

import filelock
import torch

from labkit.system import written_whole

KEEP = 2
_SUFFIX = ".checkpoint"


class DamagedCheckpoint(ValueError):
    """A file that is not what was written: cut short, changed, or no checkpoint at all. The message names it."""


def claim(folder: str | Path) -> filelock.BaseFileLock:
    """Keep the folder for this process, for as long as what is returned is kept: one run, one writer.

    What a process that was killed had begun to write is removed. Raises RuntimeError where another process has claimed
    it. A process that ends, however it ends, gives its folders back.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / ".lock", timeout=0, is_singleton=True)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise RuntimeError(f"another process is training in {folder}; wait for it, or take another folder") from None
    for left in folder.glob(".*.tmp"):
        left.unlink(missing_ok=True)
    return lock


def save(folder: str | Path, epoch: int, state: dict[str, Any]) -> Path:
    """Write `state`, a dict of tensors and plain values, as the checkpoint of an epoch, and remove old ones. Returns
    its path.
    """
    folder = Path(folder)
    path = path_of(folder, epoch)
    content = io.BytesIO()
    torch.save(state, content)
    checksum = hashlib.sha256(content.getbuffer()).hexdigest()
    with written_whole(path) as file:
        file.write(content.getbuffer())
    with written_whole(_beside(path)) as file:
        file.write(f"{checksum}  {path.name}\n".encode())
    _flush(folder)  # the new names are on the disk before the old ones go
    for old in saved(folder)[:-KEEP]:
        old.unlink(missing_ok=True)
        _beside(old).unlink(missing_ok=True)
    return path


def path_of(folder: str | Path, epoch: int) -> Path:
    """Where the checkpoint of an epoch is.

    >>> path_of("runs", 7).as_posix()
    'runs/epoch-00007.checkpoint'
    """
    return Path(folder) / f"epoch-{epoch:05d}{_SUFFIX}"


def load(path: str | Path, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The state that `save` wrote, its tensors on `device`. Raises DamagedCheckpoint, FileNotFoundError."""
    path = Path(path)
    content = path.read_bytes()
    try:
        checksum = _beside(path).read_text(errors="replace").split()[:1]
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} has no {_beside(path).name} with its checksum beside it") from None
    if [hashlib.sha256(content).hexdigest()] != checksum:
        raise DamagedCheckpoint(f"{path} is damaged: its {len(content)} bytes are not those of {_beside(path).name}")
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
        raise DamagedCheckpoint(f"{path} is whole, but cannot be read: {error}") from error


def _beside(path):
    """The file with the checksum, in the form of the command sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def saved(folder: str | Path) -> list[Path]:
    """The paths of the checkpoints in a folder, oldest first."""
    found = {path: re.fullmatch(rf"epoch-(\d+){_SUFFIX}", path.name) for path in Path(folder).glob(f"epoch-*{_SUFFIX}")}
    return sorted((path for path, name in found.items() if name), key=lambda path: int(found[path][1]))


def latest(folder: str | Path, device: str | torch.device = "cpu") -> tuple[Path | None, dict | None]:
    """(path, state) of the newest checkpoint that is whole, or (None, None) where there is none at all.

    A damaged one is named in a warning, and the one before it taken; where all are damaged, DamagedCheckpoint names
    them.
    """
    refused = []
    for path in reversed(saved(folder)):
        try:
            state = load(path, device)
        except DamagedCheckpoint as error:
            refused.append(str(error))
            continue
        for reason in refused:
            warnings.warn(f"{reason}; going on from {path} instead", stacklevel=2)
        return path, state
    if refused:
        raise DamagedCheckpoint("no checkpoint is left to go on from: " + "; ".join(refused))
    return None, None


def _flush(folder):
    """Make a rename in the folder last through a loss of power, where the system can (Windows cannot)."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
