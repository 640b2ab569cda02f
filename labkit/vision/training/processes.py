"""Where training runs: on a GPU or not, in which precision, and in how many processes, all by Hugging Face accelerate.

torchrun --nproc_per_node 2 my_training.py                  from a terminal
processes.launch(my_training, folder, processes=2)          from a notebook
"""

import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import nn

from labkit import checks
from labkit.system import over_processes

PRECISIONS = ("no", "bf16", "fp16", "auto")


def accelerator(precision: str = "no"):
    """An Accelerator on the GPU where there is one and the CPU elsewhere.

    precision: one of PRECISIONS. "no" is float32; "auto" is bf16 where the processor computes in it, else float32.
    Raises ValueError for another one, and for "fp16" without a GPU, where accelerate would train in float32.
    """
    precision = resolved(precision)
    # accelerate keeps the precision of the first for all of a session. With a state of its own each keeps that which it
    # was made with (see `state_of`); the processes, which are kept too, stay.
    AcceleratorState._shared_state = type(AcceleratorState._shared_state)()
    own_statistics = DistributedDataParallelKwargs(broadcast_buffers=False)  # until `average_buffers`
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision, kwargs_handlers=[own_statistics])


@contextlib.contextmanager
def state_of(on: Accelerator) -> Iterator[None]:
    """Within the `with`, accelerate works in the precision of this Accelerator, although another was made after it."""
    last, AcceleratorState._shared_state = AcceleratorState._shared_state, on.state.__dict__
    try:
        yield
    finally:
        AcceleratorState._shared_state = last


@contextlib.contextmanager
def autocast(on: Accelerator) -> Iterator[None]:
    """Forward passes in the precision of this Accelerator, as `state_of` has it."""
    with state_of(on), on.autocast():
        yield


def resolved(precision: str):
    """The precision that is meant: itself, but for "auto", as in `accelerator`."""
    checks.one_of("precision", precision, PRECISIONS)
    gpu = torch.cuda.is_available()
    if precision == "fp16" and not gpu:
        raise ValueError('precision="fp16" needs a GPU, and none was found; "bf16" and "no" work on a CPU')
    if precision == "auto":
        # Elsewhere bf16 is made up of float32 operations, and several times slower.
        return "bf16" if (torch.cuda.is_bf16_supported() if gpu else _bf16_on_cpu()) else "no"
    return precision


def _bf16_on_cpu():
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


def launch(function: Callable, *arguments: Any, processes: int):
    """Call `function(*arguments)` on several processes from a notebook, by accelerate's notebook_launcher.

    It refuses to start where there has been an Accelerator; what a training on one process left is forgotten first. On
    GPUs nothing in the session may have used one yet, of which accelerate tells. The function makes its own Trainer.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebook_launcher(function, arguments, num_processes=processes, use_port=str(port))


def place(accelerator: Accelerator):
    """Where this process is, as keyword arguments of `batches.Batches`: rank, processes, device."""
    return dict(rank=accelerator.process_index, processes=accelerator.num_processes, device=accelerator.device)


class Generators:
    """Random numbers of a run's own, different on every process: within the `with`, torch draws from them, and goes on
    at the next where it stopped; the caller's generators stay as they are.
    """

    def __init__(self, seed: int, accelerator: Accelerator):
        self.seed, self.on, self.state = seed + 1_000_003 * (accelerator.process_index + 1), accelerator, None
        self.gpu = [accelerator.device] if accelerator.device.type == "cuda" else []

    def __enter__(self):
        self.fork = torch.random.fork_rng(devices=self.gpu)
        self.fork.__enter__()
        torch.manual_seed(self.seed)
        if self.state is None:
            return
        torch.set_rng_state(self.state["cpu"])
        if "cuda" in self.state:  # else the run began on a CPU
            for device in self.gpu:
                torch.cuda.set_rng_state(self.state["cuda"], device)

    def __exit__(self, *error):
        self.state = {"cpu": torch.get_rng_state()}
        for device in self.gpu:
            self.state["cuda"] = torch.cuda.get_rng_state(device)
        self.fork.__exit__(*error)

    def of_all(self):
        """The states of all processes, by rank."""
        states = [self.state]
        if self.on.num_processes > 1:
            states = [None] * self.on.num_processes
            torch.distributed.all_gather_object(states, self.state)
        return states

    def set(self, states: Sequence[dict]):
        """Go on from `of_all`; a process that there was not then starts from its seed."""
        mine = states[self.on.process_index :]
        self.state = mine[0] if mine else None


@torch.no_grad()
def average_buffers(module: nn.Module, accelerator: Accelerator):
    """Running statistics of batch norms, of which each process has its own, become their mean over processes."""
    for buffer in module.buffers():
        if buffer.is_floating_point() and accelerator.num_processes > 1:
            over_processes(buffer)
            buffer /= accelerator.num_processes
