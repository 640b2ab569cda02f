"""What LiveFigure sends; what pages make of it is for tests/browser."""

import base64
import json
import re
import sys
import types

import numpy as np
import plotly.graph_objects as go
import pytest

from labkit.widgets import live


@pytest.fixture
def sent(monkeypatch):
    """The messages of a LiveFigure, in order: (method, content, options)."""
    messages = []

    class Handle:
        def update(self, content, **options):
            messages.append(("update", content, options))

    monkeypatch.setattr(
        live, "display", lambda content, **options: messages.append(("display", content, options)) or Handle()
    )
    return messages


def line(*y, **layout):
    return go.Figure(go.Scatter(y=np.array(y)), dict(layout))


def test_one_output_then_updates(sent):
    figure = live.LiveFigure()
    figure.draw(line(1, 2))
    figure.draw(line(3, 4))
    assert [(method, *content) for method, content, _ in sent] == [
        ("display", "application/javascript"),
        ("update", live.MIME),
        ("update", live.MIME),
    ]
    assert [options for *_, options in sent] == [dict(raw=True, display_id=True), dict(raw=True), dict(raw=True)]


def test_the_notebook_stores_the_plain_figure(sent):
    live.LiveFigure().draw(line(1.5, 2.5, title="a"))
    (content,) = json.loads(json.dumps(sent[-1][1])).values()
    assert content["layout"]["title"]["text"] == "a"
    array = content["data"][0]["y"]  # plotly's typed arrays
    assert np.frombuffer(base64.b64decode(array["bdata"]), array["dtype"]).tolist() == [1.5, 2.5]


@pytest.mark.parametrize("own, kept", [(None, "labkit"), ("mine", "mine")])
def test_the_view_is_kept_between_figures(own, kept):
    assert live.bundle(line(1, uirevision=own))[live.MIME]["layout"]["uirevision"] == kept


def test_in_colab_the_figure_is_a_page(sent, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    figure = live.LiveFigure()
    figure.draw(line(1, 2, title="</script>"))
    figure.draw(line(3, 4))
    assert [(method, *content) for method, content, _ in sent] == [("display", "text/html"), ("update", "text/html")]
    first, second = (content["text/html"] for _, content, _ in sent)
    assert first.count("</script>") == 1 and first.endswith("</script>")
    name = '<div id="(.*?)">'
    assert re.search(name, first).group(1) == re.search(name, second).group(1)
    data = json.loads(re.search(r"gd, ({.*})\);", second).group(1))
    assert data == live.bundle(line(3, 4))[live.MIME]


def test_two_figures_in_colab_have_names_of_their_own():
    assert live.LiveFigure()._name != live.LiveFigure()._name
