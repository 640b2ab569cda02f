"""Tables in documents: written as Markdown, and put where a document has its place for them."""

import re

import pandas as pd


def markdown(table: pd.DataFrame):
    """A table as Markdown lines."""
    rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(str).values.tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def renew(text: str, tables: dict[str, pd.DataFrame]):
    """A document with its tables replaced: each stands between "<!-- table: NAME -->" and "<!-- end -->"."""
    for name, table in tables.items():
        place = re.compile(rf"(<!-- table: {name} -->\n).*?(\n<!-- end -->)", re.DOTALL)
        text, count = place.subn(lambda found, table=table: found[1] + table + found[2], text)
        if count != 1:
            raise ValueError(f"the document has {count} places for the table {name!r}, and should have one")
    return text
