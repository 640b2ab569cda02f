"""The course from the command line: editions of its notebooks, and grading.

python -m labkit.course editions [05 …] [--out build/course] [--reveal FOLDER]
python -m labkit.course grade FOLDER [--cell 60] [--notebook 600] [--memory 4] [--workers 2]
python -m labkit.course cell NAME         the student's cell of an exercise, and the call that checks it
"""

import argparse
from pathlib import Path

from labkit import checks

ROOT = Path("notebooks")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m labkit.course", description=__doc__.split("\n")[0])
    parser.add_argument("--notebooks", type=Path, default=ROOT, help="folder of the source notebooks")
    commands = parser.add_subparsers(dest="command", required=True)
    editions = commands.add_parser("editions", help="student, instructor and slides")
    editions.add_argument("numbers", nargs="*", help="numbers of notebooks, 05; all of them without")
    editions.add_argument("--out", type=Path, default=Path("build/course"))
    editions.add_argument("--reveal", type=Path, help="folder with reveal.js, for slides")
    grading = commands.add_parser("grade", help="mark handed-in notebooks")
    grading.add_argument("folder", type=Path)
    grading.add_argument("--cell", type=float, default=60.0, help="seconds for a cell")
    grading.add_argument("--notebook", type=float, default=600.0, help="seconds for a notebook")
    grading.add_argument("--memory", type=float, default=4.0, help="GB for a kernel; 0 for no limit")
    grading.add_argument("--workers", type=int, default=2)
    cell = commands.add_parser("cell", help="the student's cell of an exercise")
    cell.add_argument("name")
    options = parser.parse_args(arguments)

    sources = sorted(options.notebooks.glob("*.ipynb"))
    if not sources and options.command != "cell":
        parser.error(
            f"no notebooks in {options.notebooks.absolute()}: name the course's folder of them with --notebooks"
        )
    if options.command == "cell":
        from labkit.course.exercises import find

        try:
            exercise = find(options.name)
        except KeyError as error:
            parser.error(error.args[0])
        print(f"{exercise.stub}\n\n{exercise.call}")
    elif options.command == "editions":
        from labkit.course import editions as made

        if unknown := set(options.numbers) - {s.name[:2] for s in sources}:
            parser.error(f"no notebook has the number {', '.join(sorted(unknown))}; numbers have two digits, as 05")
        wanted = [s for s in sources if not options.numbers or s.name[:2] in options.numbers]
        for path in made.build(wanted, options.out, options.reveal):
            print(path)
        if options.reveal is None:
            print("No slides: give --reveal FOLDER (see docs/teaching.md).")
    else:
        from labkit.course import grade as marks

        try:
            limits = marks.Limits(options.cell, options.notebook, int(options.memory * 1e9) or None)
            checks.integer("workers", options.workers, 1)
        except ValueError as error:
            parser.error(str(error))
        data = options.notebooks.parent / "data"
        table = marks.grade(
            options.folder, sources, limits=limits, workers=options.workers, data=data if data.is_dir() else None
        )
        for path in marks.write(table, options.folder):
            print(path)


if __name__ == "__main__":
    main()
