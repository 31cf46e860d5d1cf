"""Training of the bundled models on the procedural worlds."""
