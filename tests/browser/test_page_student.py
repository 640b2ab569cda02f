"""A student's path through the student's edition of notebook 00, in JupyterLab: predict, run, move, wrong, right."""

import nbformat

from labkit.course import editions


def test_a_student_goes_through_notebook_00(lab, tab):
    edition = editions.student(nbformat.read(lab.root / "notebooks/00-start-here.ipynb", as_version=4))
    nbformat.write(edition, lab.root / "notebooks/00-student.ipynb")
    code = [k for k, cell in enumerate(edition.cells) if cell.cell_type == "code"]
    place = lambda text: next(k for k in code if text in edition.cells[k].source)
    notebook, page = lab.open(tab, "00-student"), tab.page
    active = page.locator(".jp-Notebook-cell.jp-mod-active")

    def run(k):
        notebook.run_cell(k)
        return "".join(out.get("text", "") for out in notebook.json()["cells"][k]["outputs"])

    def write(k, text):
        page.evaluate(
            """async (k) => {
          const { content } = jupyterapp.shell.currentWidget;
          content.activeCellIndex = k;
          await content.scrollToItem(k); }""",
            k,
        )
        active.locator(".cm-content").click()
        page.keyboard.press("Control+A")
        page.keyboard.type(text)

    for k in [k for k in code if k < place('predict("angle"')]:
        run(k)
    # A prediction that is no number is asked for again; one that is locked cannot be changed.
    run(place('predict("angle"'))
    entry = active.locator("input[type=text]")
    entry.fill("a right angle")
    active.get_by_role("button", name="lock it in").click()
    active.get_by_text("a number is asked for").wait_for()
    entry.fill("90")
    active.get_by_role("button", name="lock it in").click()
    active.get_by_text("Locked.").wait_for()
    assert entry.is_disabled()
    run(place('predict("step"'))  # left empty

    run(next(k for k in code if edition.cells[k].source == "movie"))
    explorer = notebook.explorer("step")
    explorer.drag("step", 1.0)
    explorer.wait(lambda figure: "step 1000" in figure.layout.title.text)

    said = run(place('answer("angle"'))
    assert "You said: 90" in said and "It is: 109.5°" in said and "No prediction was entered. It is: " in said

    exercise, check = place("my_cosine = None"), place('check(my_cosine, "five-classes")')
    run(exercise)
    assert "not attempted yet" in run(check)
    for answer, right in (("-0.2", False), ("-1/4", True)):
        write(exercise, f"my_cosine = {answer}")
        run(exercise)
        assert ("five-classes: right." in run(check)) == right
    assert "going on with your my_cosine" in run(place('use("five-classes")'))
    notebook.close()
