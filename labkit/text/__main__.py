"""python -m labkit.text: see labkit.text.recipes."""

import sys

from labkit.text.recipes import main

if __name__ == "__main__":
    sys.exit(main())
