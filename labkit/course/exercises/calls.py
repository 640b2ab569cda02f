"""Calling a student's function: with what it can take, under a time limit, and under watch."""

import contextlib
import copy
import dis
import functools
import importlib
import inspect
import signal
import sys
import threading
from collections.abc import Callable, Iterator

import torch

from labkit.course.exercises.exercise import Exercise


def answers_of(
    attempt: Callable,
    cases: list[tuple],
    exercise: Exercise,
    solutions: list[object],
    seconds: float,
    single: bool = False,
) -> tuple[list, set[str], BaseException | None]:
    """(answers so far, library functions that were called, the error that ended it or None).

    Inputs come as float64 tensors. An attempt that fails on these is tried with float32 ones, for whom a matrix made by
    torch.eye does not fit otherwise, and with NumPy arrays. single: with float32 ones alone.
    """
    first = None
    for convert in (_as_float32,) if single else (lambda x: x, _as_float32, _as_numpy):
        answers, watch = [], Watch(exercise, solutions)
        extra = exercise.watch() if exercise.watch else None
        try:
            with torch.random.fork_rng(devices=[]), limited(seconds), extra or contextlib.nullcontext(), watch:
                for case in cases:
                    answers.append(attempt(*(convert(x) for x in copy.deepcopy(case))))
            if convert is _as_float32:  # computed in single precision, whatever dtype came out
                answers = [a.float() if torch.is_tensor(a) and a.is_floating_point() else _single(a) for a in answers]
            return answers, watch.used | (extra.used if extra else set()), None
        except (KeyboardInterrupt, TimeUp):
            raise
        except BaseException as error:
            first = first or (answers, watch.used, error)
            if not isinstance(error, (TypeError, AttributeError, RuntimeError, ValueError)):
                break
    return first


def _single(answer):
    return torch.tensor(answer, dtype=torch.float32) if isinstance(answer, float) else answer


def _as_float32(x):
    if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
        return x.float()
    return [_as_float32(y) for y in x] if isinstance(x, list) else x


def _as_numpy(x):
    if isinstance(x, torch.Tensor):
        return x.detach().numpy()
    return [_as_numpy(y) for y in x] if isinstance(x, list) else x


def of_error(error: BaseException) -> str:
    text = str(error).strip().split("\n")[0]
    if isinstance(error, NameError):
        return f"{type(error).__name__}: {text}: use the arguments of the function, and import what you need"
    if isinstance(error, SystemExit):
        return "it ends the program (exit) in place of returning something"
    return f"it raises {type(error).__name__}: {text}"


class Watch:
    """While it is open, notes which of an exercise's library functions are called, from wherever they were imported.

    By Python's profiler hook, which sees every call by the code that is run: no function needs to be replaced, and it
    does not matter under which name a notebook has it.
    """

    def __init__(self, exercise: Exercise, solutions: list[object]):
        self.used, self.codes, self.builtins = set(), {}, {}
        for name in exercise.library:
            try:
                function = inspect.unwrap(resolve(name))
            except (ImportError, AttributeError, RuntimeError):
                # moved, not installed, or it does not load, as torchvision beside another torch does not: no reason to
                # refuse a right answer
                continue
            if hasattr(function, "__code__"):
                self.codes[function.__code__] = name
            else:
                self.builtins[function.__name__] = name
        for solution in solutions:
            if hasattr(solution, "__code__"):
                self.codes[solution.__code__] = "the course's own solution"

    def __enter__(self):
        self._before = sys.getprofile()
        sys.setprofile(self._see)
        return self

    def __exit__(self, *_):
        sys.setprofile(self._before)

    def _see(self, frame, event, argument):
        if event == "call" and frame.f_code in self.codes:
            self.used.add(self.codes[frame.f_code])
        elif event == "c_call" and argument.__name__ in self.builtins:
            self.used.add(self.builtins[argument.__name__])


def resolve(dotted: str) -> object:
    """The object of a dotted name, "labkit.metrics.nc1". Raises ImportError or AttributeError for none such."""
    parts = dotted.split(".")
    for k in range(len(parts) - 1, 0, -1):
        try:
            module = importlib.import_module(".".join(parts[:k]))
        except ModuleNotFoundError:
            continue
        return functools.reduce(getattr, parts[k:], module)
    raise ImportError(f"nothing is called {dotted}")


def is_stub(attempt: object, exercise: Exercise) -> bool:
    """Whether a function still is what the student's cell held at first, or does nothing at all."""
    code = getattr(attempt, "__code__", None)
    if code is None:
        return False
    scope = {}
    with contextlib.suppress(Exception):
        exec(exercise.stub, scope)
    empty = [f.__code__ for f in (scope.get(exercise.attempt), lambda: None) if hasattr(f, "__code__")]
    return any(_instructions(code) == _instructions(e) for e in empty)


def _instructions(code):
    return [(i.opname, i.argval) for i in dis.get_instructions(code) if i.opname not in ("RESUME", "NOP")]


class TimeUp(BaseException):  # an attempt's own `except Exception` does not catch it
    pass


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Raise TimeUp after so many seconds, and each second from then on."""
    if not hasattr(signal, "setitimer") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
