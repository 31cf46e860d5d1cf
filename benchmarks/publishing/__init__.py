"""Write results into README and docs."""
