"""The tasks of HellaSwag: read from a file, or a few that are made up."""

import bz2
import json
from dataclasses import dataclass
from pathlib import Path

# What stands before an ending, by the kind of file.
PROMPTS = {
    "text": "activity label: context, without bracket tags (as llama.cpp has it)",
    "jsonl": "ctx as it is, no activity label, bracket tags kept (as build-nanogpt has it)",
}
LINES = 6  # of a task in the text file: context, label, four endings
VALIDATION = 10_042  # tasks of the validation set


@dataclass(frozen=True)
class Task:
    """A context, four endings, and the number of the right one, 0 … 3."""

    context: str
    endings: tuple[str, ...]
    label: int


@dataclass(frozen=True)
class Tasks:
    """Tasks, and in words what prompt their contexts are."""

    tasks: tuple[Task, ...]
    prompt: str

    def __len__(self) -> int:
        return len(self.tasks)

    def share(self, rank: int, processes: int) -> "Tasks":
        """Every so-manieth task, for one of several processes."""
        return Tasks(self.tasks[rank::processes], self.prompt)


# Made by hand, to try the format where the file is not there: they say nothing about a model.
MADE_UP = Tasks(
    (
        Task(
            "Baking bread: A woman mixes flour, water and yeast in a bowl. She kneads the dough on a table. She",
            (
                "puts the dough into the oven, still in its paper bag, and paints the wall.",
                "covers it with a cloth and waits until it has risen.",
                "throws the yeast to the dog and sings.",
                "reads the dough aloud and folds it into her bicycle.",
            ),
            1,
        ),
        Task(
            "Changing a tyre: A man lifts his car with a jack and loosens the nuts of a wheel. He",
            (
                "drinks the jack and drives the nuts home.",
                "paints the wheel on the road and waits for rain.",
                "takes the wheel off and puts the spare one in its place.",
                "gives the car to the wheel, which smiles.",
            ),
            2,
        ),
        Task(
            "Swimming: Children stand at the edge of a pool. The teacher blows a whistle. They",
            (
                "fold the pool and carry it upstairs.",
                "sell the whistle to the water.",
                "are cooked slowly in the snow.",
                "jump into the water and swim to the other side.",
            ),
            3,
        ),
        Task(
            "Playing the violin: A girl opens a case and takes out a violin. She tunes its strings. She",
            (
                "lays the bow on the strings and begins to play.",
                "waters the strings until they flower.",
                "takes a bite of the case and counts it.",
                "climbs through the violin into the garden.",
            ),
            0,
        ),
    ),
    "made by hand for labkit, in the form of the text file",
)


def read(path: str | Path, count: int | None = None) -> Tasks:
    """The tasks of a file: text with six lines a task (context, label, four endings), packed (.bz2) or not, or the
    published .jsonl (ctx, endings, label).

    count: how many tasks there must be, such as VALIDATION; None takes any number.
    Raises FileNotFoundError, and ValueError, naming the file and the line, for anything else than whole tasks.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no HellaSwag file at {path}")
    content = path.read_bytes()
    try:
        if path.suffix == ".bz2":
            content = _unpacked(content)
        text = content.decode("utf-8")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    if not text.endswith("\n"):
        raise ValueError(f"{path} is empty or cut short: its last line does not end")
    lines = text[:-1].split("\n")
    kind = "jsonl" if path.name.removesuffix(".bz2").endswith(".jsonl") else "text"
    tasks = tuple((_from_json if kind == "jsonl" else _from_text)(path, lines))
    if count is not None and len(tasks) != count:
        raise ValueError(f"{path} has {len(tasks)} tasks, and should have {count}")
    return Tasks(tasks, PROMPTS[kind])


def _unpacked(content):
    unpacker = bz2.BZ2Decompressor()
    text = unpacker.decompress(content)
    if not unpacker.eof:
        raise EOFError(f"the packed file is cut short after {len(content)} bytes")
    if unpacker.unused_data:
        raise EOFError(f"{len(unpacker.unused_data)} bytes follow after the end of the packed file")
    return text


def _from_text(path, lines):
    for start in range(0, len(lines), LINES):
        task = lines[start : start + LINES]
        if len(task) < LINES:
            raise ValueError(f"{path} ends within a task: {len(task)} of {LINES} lines from line {start + 1} on")
        context, label, *endings = task
        if label not in ("0", "1", "2", "3"):
            raise ValueError(
                f"{path}, line {start + 2}: the label must be 0, 1, 2 or 3, got {label[:60]!r}; there are {LINES} "
                "lines a task, and one may be missing above"
            )
        for line, text in enumerate(task, start + 1):
            if not text.strip():
                raise ValueError(f"{path}, line {line} is empty")
        yield Task(context, tuple(endings), int(label))


def _from_json(path, lines):
    for number, line in enumerate(lines, 1):
        where = f"{path}, line {number}"
        try:
            item = json.loads(line)
            context, endings, label = item["ctx"], item["endings"], item["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{where} is not a HellaSwag task with ctx, endings and label: {error!r}") from error
        if not (isinstance(endings, list) and len(endings) == 4 and all(isinstance(e, str) and e for e in endings)):
            raise ValueError(f"{where}: there must be four endings, got {str(endings)[:60]!r}")
        if isinstance(label, bool) or label not in (0, 1, 2, 3):
            raise ValueError(f"{where}: the label must be 0, 1, 2 or 3, got {label!r}")
        if not (isinstance(context, str) and context):
            raise ValueError(f"{where}: ctx must be a text, got {context!r}")
        yield Task(context, tuple(endings), int(label))
