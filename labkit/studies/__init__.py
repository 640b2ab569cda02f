"""Questions with stored answers: sweeps, claims, and the runs behind the notebooks."""

from pathlib import Path

# Below these, numbers of a float32 UFM in up to 1024 dimensions are rounding, with ε = 2^-23: NC1 is a square, d ε²;
# NC3 and the relative difference of two losses are √d ε.
ROUNDING = {"nc1": 1024 * 2.0**-46, "nc3": 32 * 2.0**-23, "loss": 32 * 2.0**-23}


def stored() -> Path:
    """The tables and results that labkit comes with: data/ of a checkout, or a copy of it inside an installation.

    Raises FileNotFoundError where labkit is neither in a checkout nor installed with its data.

    >>> (stored() / "paper" / "guiding-table1.csv").exists()
    True
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "stored", package.parent / "data"):
        if (folder / "paper").is_dir():
            return folder
    raise FileNotFoundError(f"labkit was installed without its data: there is no {folder}")


def in_name(number: float) -> str:
    """A number as names of runs have it: with six digits where these say all, else with all, so that no two are alike.

    >>> in_name(10.0), in_name(1e5 / 3)
    ('10', '33333.333333333336')
    """
    text = f"{number:g}"
    return text if float(text) == number else repr(float(number))
