"""What is drawn on the CPU is drawn there whatever the default device; the meta device stands in for a GPU."""

import pandas as pd
import torch

from labkit import calibration, etf, optim
from labkit._fast import polar


def test_a_seed_gives_the_same_numbers_whatever_the_default_device():
    """What is made on the meta device by mistake has no numbers, and cannot meet those of the CPU."""
    logits, labels, weight = torch.randn(50, 3), torch.arange(50) % 3, torch.empty(4, 3)
    gram = torch.diag(torch.linspace(1, 9, 70, dtype=torch.float64))
    seeded = lambda: torch.Generator().manual_seed(0)
    diagram, frame = calibration.reliability(logits, labels), etf.haar_frame(5, 2, seeded())
    ends = polar.extreme_eigenvalues(gram)
    with torch.device("meta"):
        pd.testing.assert_frame_equal(calibration.reliability(logits, labels), diagram)
        assert torch.equal(etf.haar_frame(5, 2, seeded(), device="cpu"), frame)
        assert etf.haar_frame(5, 2, seeded()).is_meta
        assert polar.extreme_eigenvalues(gram) == ends
        assert optim.agd_init_(weight).norm() > 1
