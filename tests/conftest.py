"""Makes tools/notebooks.py importable; pytest itself finds labkit where pip installed it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))
