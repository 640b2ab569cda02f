"""The machine underneath: disks, several processes, and torchvision beside any build of torch."""

import contextlib
import os
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import BinaryIO

import torch


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears at `path`, flushed to the disk, when the block ends, and not at all where it raises.

    Its folder is made. Until then it has a name that no other process uses, .NAME.….tmp, which stays where the process
    is killed. OSError names the file where the disk is full or cannot be written; what was there before is untouched.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with written_whole(Path(folder) / "two-bytes") as file:
    ...         written = file.write(b"12"), os.listdir(folder) == ["two-bytes"]
    ...     print(*written, os.listdir(folder))
    2 False ['two-bytes']
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        reason = f"{path} could not be written ({error.strerror or error}); what was there before is untouched"
        raise OSError(error.errno, reason) from error
    finally:
        with contextlib.suppress(OSError):  # it is not there, or its folder could not be made
            temporary.unlink()


def several() -> bool:
    """Whether this is one of several processes.

    >>> several()
    False
    """
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def over_processes(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The tensors, each added up in place over all processes where there are several.

    >>> over_processes(torch.tensor(3.0))[0].item()  # one process
    3.0
    """
    if several():
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
    return tensors


def import_torchvision() -> ModuleType:
    """Import torchvision, also where its compiled library does not load. ModuleNotFoundError where there is none.

    A CPU build of torch with the torchvision of the package index, built for CUDA, is a common pair. There the
    operators of torchvision stay undeclared, and the import fails: "operator torchvision::nms does not exist".
    Declaring them is enough for whatever never calls one; a call still raises torchvision's own error.

    >>> import_torchvision().__name__
    'torchvision'
    """
    with torch.device("cpu"):  # some versions make tensors while they are imported, and look at their values
        try:
            import torchvision
        except RuntimeError as error:
            if "operator torchvision::" not in str(error):
                raise
            for name in ("nms", "qnms"):  # those that its Python files refer to while they are imported
                if not hasattr(torch.ops.torchvision, name):
                    schema = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
                    torch.library.define(f"torchvision::{name}", schema)
            for name in [name for name in sys.modules if name.startswith("torchvision.")]:
                del sys.modules[name]  # half-imported
            import torchvision
    return torchvision
