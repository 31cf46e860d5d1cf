"""The CI gate: compare two sweeps."""
