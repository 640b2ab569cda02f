"""For tests that start a Python of their own."""

import os


def environment(*folders, **settings) -> dict[str, str]:
    """The environment of a process that finds modules in these folders, after those that are found there already: other
    versions of the dependencies, where `make test-versions` tries them.
    """
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), *map(str, folders)]))
    return os.environ | {"PYTHONPATH": path} | settings
