"""Where training runs: on a GPU or not, in which precision, and in how many processes, all by Hugging Face accelerate.

torchrun --nproc_per_node 2 my_training.py                  from a terminal
processes.launch(my_training, folder, processes=2)          from a notebook
"""

import socket

import torch
from accelerate import Accelerator, notebook_launcher
from accelerate.state import AcceleratorState

from labkit import checks


def accelerator(precision="no"):
    """An Accelerator on the GPU where there is one and the CPU elsewhere. precision: "no" (float32), "bf16" or
    "fp16".
    """
    checks.one_of("precision", precision, ("no", "bf16", "fp16"))
    # accelerate keeps the precision of the first for all of a session; the processes, which are kept too, stay.
    AcceleratorState._reset_state()
    return Accelerator(cpu=not torch.cuda.is_available(), mixed_precision=precision)


def launch(function, *arguments, processes):
    """Call `function(*arguments)` on several processes from a notebook, by accelerate's notebook_launcher.

    It refuses to start where there has been an Accelerator; what a training on one process left is forgotten first. On
    GPUs nothing in the session may have used one yet, of which accelerate tells. The function makes its own Trainer.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    notebook_launcher(function, arguments, num_processes=processes, use_port=str(port))


def place(accelerator):
    """Where this process is, as keyword arguments of `batches.Batches`: rank, processes, device."""
    return dict(rank=accelerator.process_index, processes=accelerator.num_processes, device=accelerator.device)
