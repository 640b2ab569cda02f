"""Questions with stored answers: sweeps, claims, and the runs behind the notebooks."""
