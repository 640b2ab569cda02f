# Every target sets up .venv by itself; the second run finds it there and installs nothing.
# Another Python:  make run PYTHON=python3.12      More options for a tool:  make test ARGS='-k etf'

PYTHON   ?= python3
NOTEBOOK  = 04-ufm-10
PRESET    = paper
WORKERS   = 2
ARGS      =
CONSTRAINTS ?= -c constraints.txt

# GNU OpenMP threads wait by spinning, and so take the processor from whoever else needs it, a browser or a second kernel: with two
# processes on two cores a training step took 40 times as long (measured). Spinning for a shorter while costs far less.
run lab test test-browser test-versions notebooks evidence check: export GOMP_SPINCOUNT ?= 1000
# glibc hands memory back to the system after each large array and asks for it again at the next: a chain of passes over a million
# numbers took twice as long (22.6 ms against 11.9, measured). Trainings keep it.
run evidence bench: export MALLOC_TRIM_THRESHOLD_ ?= 4000000000
run evidence bench: export MALLOC_MMAP_THRESHOLD_ ?= 4000000000
run evidence bench: export MALLOC_TOP_PAD_ ?= 200000000

.DEFAULT_GOAL := help
.PHONY: run lab check test test-browser test-versions notebooks course site colab evidence bench help
# Written last, so an interrupted installation is not taken for a finished one.
READY := .venv/.ready
VENV  := .venv/bin/python
GOAL  := $(firstword $(MAKECMDGOALS))

run: $(READY) ## the paper's first experiment: progress, a table, a notebook and a web page in build/
	@$(VENV) tools/notebooks.py run $(NOTEBOOK) --preset $(PRESET) $(ARGS)

# Jupyter refuses to run as root unless it is told to; in a container there is often nobody else.
lab: $(READY) ## JupyterLab, open at the first notebook
	@$(VENV) -m jupyterlab notebooks/00-start-here.ipynb $$(test "$$(id -u)" != 0 || echo --allow-root) $(ARGS)

check: $(READY) ## style, layout and examples: ruff, who may import whom, the examples in docstrings
	@$(VENV) -m ruff check .
	@$(VENV) -m ruff format --check --quiet . || { echo "Not formatted: run .venv/bin/ruff format ." >&2; exit 1; }
	@.venv/bin/lint-imports
	@$(VENV) -m pytest -q --doctest-modules labkit

# One process with one thread for each worker: more workers on more cores, make test WORKERS=8. A file stays with one worker, as a
# notebook's cells share a kernel. (loadgroup could cut finer, but does nothing with pytest 9.2 and pytest-xdist 3.8.) Files come
# in the order of the command, the notebooks and the course first: by itself xdist leaves files of few tests to the end, the
# longest ones among them, and one worker waits for the other.
test: export OMP_NUM_THREADS ?= 1
test: $(READY) ## all tests but those in a browser; the notebooks are among them, cell by cell
	@$(VENV) -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --nbval-lax notebooks tests --ignore=tests/browser $(ARGS)

# Each worker has a JupyterLab and a Chromium of its own. While one figure is drawn the other's kernel computes.
test-browser: export OMP_NUM_THREADS ?= 1
test-browser: $(READY) ## the notebooks in JupyterLab and as web pages, in Chromium; screenshots in build/screenshots
	@$(VENV) -m pytest -n $(WORKERS) --dist loadfile tests/browser $(ARGS)

test-versions: $(READY) ## tests with the oldest dependencies, and with other ipywidgets and plotly, which it fetches
	@$(VENV) tools/versions.py $(ARGS)

notebooks: $(READY) ## run all notebooks afresh and save them with their pictures (needs Chrome or Chromium)
	@$(VENV) tools/notebooks.py save $(ARGS)

course: $(READY) ## the student's and the instructor's edition of every notebook, in build/course
	@$(VENV) -m labkit.course editions $(ARGS)

site: $(READY) ## the course as web pages that need no Python, with a reference, in build/site
	@$(VENV) tools/pages.py $(ARGS)

colab: $(READY) ## each notebook as one file that runs by itself, in build/colab; ARGS=--try runs them in a fresh environment
	@$(VENV) tools/colab.py $(ARGS)

evidence: $(READY) ## the long runs behind the notebooks (evidence.toml): ARGS=--status says what is there
	@$(VENV) -m labkit.studies.evidence --workers $(WORKERS) $(ARGS)

bench: $(READY) ## all side-by-side measurements in benchmarks/, one after the other
	@set -e; for file in benchmarks/[a-z]*.py; do \
	  test -e "$$file" || { echo "There are no benchmarks yet."; break; }; \
	  echo "== $$file"; $(VENV) "$$file" $(ARGS); \
	done

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# First what can be missing, each with one line that says so. Then the installation: into an empty .venv,
# or on top of a finished one when the dependencies have changed.
$(READY): pyproject.toml constraints.txt
	@found=$$("$(PYTHON)" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null); \
	case "$$found" in \
	  3.1[1-9].*|3.[2-9][0-9].*) ;; \
	  "") echo "labkit needs Python 3.11 or newer; $(PYTHON) was not found or does not start. Try: make $(GOAL) PYTHON=python3.12" >&2; exit 1 ;; \
	  *)  echo "labkit needs Python 3.11 or newer; $(PYTHON) is $$found. Try: make $(GOAL) PYTHON=python3.12" >&2; exit 1 ;; \
	esac; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "labkit needs Python's venv module; $(PYTHON) ($$found) has none. On Debian or Ubuntu: apt-get install python$${found%.*}-venv" >&2; exit 1; }
	@echo "Setting up .venv: PyTorch, JupyterLab and what else labkit needs (once, a few minutes) ..."
	@test -e $@ || "$(PYTHON)" -m venv --clear .venv
	@rm -f $@
	@$(VENV) -m pip install -qq --disable-pip-version-check $(CONSTRAINTS) -e '.[test]'
	@touch $@
