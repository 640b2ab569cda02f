"""The interactive figure of recorded trainings; see `labkit.widgets.etf` for how such a figure is made."""

from labkit import plots
from labkit.widgets.base import Explorer, menu, slider


class DigitsExplorer(Explorer):
    """Any three classes of recorded trainings, at any epoch, with NC1 to NC4.

    recordings: {head: Recording}.
    """

    def __init__(self, recordings):
        self.recordings = recordings
        self._shadows = {}
        super().__init__()

    def controls(self):
        last = min(r.history.frame["iteration"].max() for r in self.recordings.values())
        digits = list(range(next(iter(self.recordings.values())).weights.shape[-2]))
        heads = [(look.label, head) for head, look in plots.style.looks(self.recordings).items()]
        return {
            "head": menu("head", heads, heads[0][1]),
            "epoch": slider("epoch", 0, 0, int(last), 1),
            "first": menu("first digit", digits, 0),
            "second": menu("second digit", digits, 1),
            "third": menu("third digit", digits, 2),
        }

    def figure(self, head, first, second, third, epoch):
        classes = [first, second, third]
        for k in (1, 2):  # a digit chosen twice gives way to the next that is free
            while classes[k] in classes[:k]:
                classes[k] = (classes[k] + 1) % self.recordings[head].weights.shape[-2]
        key = (head, *classes)
        if key not in self._shadows:
            self._shadows[key] = plots.digits.Shadow(self.recordings[head], tuple(classes))
        return plots.digits.state(self.recordings[head], tuple(classes), epoch, self._shadows[key])
