"""The packages; everything else about the distribution is in pyproject.toml.

Discovery finds what lies in labkit/. It cannot find data/, which becomes labkit.stored inside an installation, for
notebooks with no checkout around them; pyproject.toml has no way to say "found, and one more".
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["labkit", "labkit.*"]), "labkit.stored"],
    package_dir={"labkit.stored": "data"},
    package_data={"labkit": ["py.typed"], "labkit.stored": ["paper/*", "results/**/*"]},
)
