"""The one training loop for networks, and what it needs: learning rates, checkpoints, one process or several."""
