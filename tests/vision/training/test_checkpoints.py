"""Checkpoints come back as they were written; a damaged one is refused by its name, and the one before it is used."""

import os
import subprocess
import sys
import textwrap

import pytest
import torch

from labkit.vision.training import checkpoints
from labkit.vision.training.checkpoints import DamagedCheckpoint


def state(epoch):
    return {
        "epoch": epoch,
        "weights": torch.full((50, 3), float(epoch)),
        "rows": [{"head": "fixed", "nc1": 0.5}],
        "none": None,
    }


def equal(one, other):
    assert one.keys() == other.keys()
    assert torch.equal(one["weights"], other["weights"])
    assert all(one[key] == other[key] for key in ("epoch", "rows", "none"))


def test_round_trip_keeps_the_last_two(tmp_path):
    paths = [checkpoints.save(tmp_path / "new", epoch, state(epoch)) for epoch in (9, 10, 100)]
    assert checkpoints.saved(tmp_path / "new") == paths[1:]
    assert sorted(os.listdir(tmp_path / "new")) == [
        f"epoch-00{epoch}.checkpoint{end}" for epoch in ("010", "100") for end in ("", ".sha256")
    ]
    for path, epoch in zip(paths[1:], (10, 100)):
        equal(checkpoints.load(path), state(epoch))
    path, found = checkpoints.latest(tmp_path / "new")
    assert path == paths[2]
    equal(found, state(100))


def test_no_checkpoint(tmp_path):
    assert checkpoints.latest(tmp_path) == (None, None) == checkpoints.latest(tmp_path / "not there")


DAMAGE = {
    "cut to half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "cut in the header": lambda content: content[:30],
    "empty": lambda content: b"",
    "one bit": lambda content: content[:-400] + bytes([content[-400] ^ 1]) + content[-399:],
    "something else": lambda content: b"\x89PNG\r\n" + content,
    "bytes behind": lambda content: content + b"0",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_refused_by_name(tmp_path, damage):
    first, second = (checkpoints.save(tmp_path, epoch, state(epoch)) for epoch in (1, 2))
    second.write_bytes(DAMAGE[damage](second.read_bytes()))
    with pytest.raises(DamagedCheckpoint, match=second.name):
        checkpoints.load(second)
    with pytest.warns(UserWarning, match=f"{second.name} is .*going on from .*{first.name}"):
        path, found = checkpoints.latest(tmp_path)
    assert path == first
    equal(found, state(1))
    first.write_bytes(b"")
    with pytest.raises(DamagedCheckpoint, match=f"no checkpoint is left.*{second.name}.*{first.name}"):
        checkpoints.latest(tmp_path)


def test_torch_reads_it_plainly_and_the_newest_is_the_one_with_the_highest_number(tmp_path):
    # a line of ours stood before it; and 99999 counted as newer than 100001
    paths = [checkpoints.save(tmp_path, epoch, state(epoch)) for epoch in (99999, 100001)]
    equal(torch.load(paths[0]), state(99999))
    assert checkpoints.saved(tmp_path) == paths and checkpoints.latest(tmp_path)[0] == paths[1]
    assert subprocess.run(["sha256sum", "--check", f"{paths[1].name}.sha256"], cwd=tmp_path).returncode == 0
    (tmp_path / f"{paths[1].name}.sha256").unlink()
    with pytest.raises(DamagedCheckpoint, match=r"no epoch-100001.checkpoint.sha256 with its checksum"):
        checkpoints.load(paths[1])


def test_a_folder_is_one_process_s_own(tmp_path):
    # a second process removed what the first was writing, which ended in a bare FileNotFoundError
    held = checkpoints.claim(tmp_path)
    assert checkpoints.claim(tmp_path) is held  # the same process may
    script = f"from labkit.vision.training import checkpoints; checkpoints.claim({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode and f"RuntimeError: another process is training in {tmp_path}" in done.stderr
    held.release(force=True)
    assert subprocess.run([sys.executable, "-c", script]).returncode == 0


def test_a_whole_file_with_another_object_is_refused_by_name(tmp_path):
    path = checkpoints.save(tmp_path, 1, {"object": tmp_path})  # only tensors and plain values are read
    with pytest.raises(DamagedCheckpoint, match=path.name):
        checkpoints.load(path)


def test_killed_while_writing_leaves_the_old_one(tmp_path):
    """The process ends without warning when the new file is written but has not got its name yet."""
    old = checkpoints.save(tmp_path, 1, state(1))
    script = f"""
        import os, signal
        from labkit.vision.training import checkpoints
        os.replace = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
        checkpoints.save({str(tmp_path)!r}, 2, {{"epoch": 2}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)])
    assert done.returncode == -9 and len(os.listdir(tmp_path)) == 3
    path, found = checkpoints.latest(tmp_path)
    assert path == old
    equal(found, state(1))
    held = checkpoints.claim(tmp_path)  # the next run tidies up
    assert len(os.listdir(tmp_path)) == 3 and not list(tmp_path.glob("*.tmp"))
    held.release(force=True)
