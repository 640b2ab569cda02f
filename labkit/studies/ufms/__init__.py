"""Questions about UFMs: sweeps, the paper's claims, unequal and many classes, the gradient through the ETF."""
