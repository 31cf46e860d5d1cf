"""Write results into the README and the docs."""
