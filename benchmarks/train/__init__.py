"""Training of the bundled model, from nothing, on the procedural world."""
