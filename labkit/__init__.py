"""labkit: simplex ETFs, the classifier heads built on them, and the models they are studied on.

One idea per module; see the README for the map. Nothing here knows about notebooks.
"""

__version__ = "0.1.0"
