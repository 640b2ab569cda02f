"""labkit: simplex ETFs, the classifier heads built on them, and the models they are studied on.

One idea a module; docs/modules.md has the map. The modules beside this one are the core, which needs no extra.
"""

__version__ = "0.1.0"
