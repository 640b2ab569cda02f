"""Checkpoints that are there whole or not at all, and that know when they are damaged.

A file is one line of text, with a version and the SHA-256 of all that follows, and then what torch.save wrote. It is
written under another name, flushed to the disk and renamed. Of a folder's checkpoints the last KEEP stay.
"""

import hashlib
import io
import os
import pickle
import warnings
from pathlib import Path

import torch

from labkit.history import written_whole

KEEP = 2
_MAGIC = "labkit-checkpoint-1"
_SUFFIX = ".checkpoint"


class DamagedCheckpoint(ValueError):
    """A file that is not what was written: cut short, changed, or no checkpoint at all. The message names it."""


def save(folder, epoch, state):
    """Write `state`, a dict of tensors and plain values, as the checkpoint of an epoch, and remove old ones. Returns
    its path.
    """
    folder = Path(folder)
    path = path_of(folder, epoch)
    content = io.BytesIO()
    torch.save(state, content)
    content = content.getbuffer()
    with written_whole(path) as file:
        file.write(f"{_MAGIC} {hashlib.sha256(content).hexdigest()}\n".encode())
        file.write(content)
    _flush(folder)  # the new name is on the disk before an old one goes
    for old in saved(folder)[:-KEEP]:
        old.unlink()
    for left in folder.glob(f".*{_SUFFIX}.*.tmp"):  # of a process that was killed while it wrote
        left.unlink()
    return path


def path_of(folder, epoch):
    """Where the checkpoint of an epoch is."""
    return Path(folder) / f"epoch-{epoch:05d}{_SUFFIX}"


def load(path, device="cpu"):
    """The state that `save` wrote, its tensors on `device`. Raises DamagedCheckpoint, FileNotFoundError."""
    with open(path, "rb") as file:
        header, content = file.readline(len(_MAGIC) + 66), file.read()
    try:
        magic, checksum = header.decode().split()
    except ValueError:
        magic = checksum = None
    if magic != _MAGIC:
        raise DamagedCheckpoint(
            f"{path} is not a labkit checkpoint: it starts with {header[: len(_MAGIC)]!r}, not {_MAGIC!r}"
        )
    if hashlib.sha256(content).hexdigest() != checksum:
        raise DamagedCheckpoint(
            f"{path} is damaged: the checksum of its {len(content)} bytes is not the one it was written with"
        )
    try:
        return torch.load(io.BytesIO(content), map_location=device, weights_only=True)
    except (RuntimeError, pickle.UnpicklingError) as error:
        raise DamagedCheckpoint(f"{path} is whole, but cannot be read: {error}") from error


def saved(folder):
    """The paths of the checkpoints in a folder, oldest first."""
    return sorted(Path(folder).glob(f"epoch-*{_SUFFIX}"))


def latest(folder, device="cpu"):
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
