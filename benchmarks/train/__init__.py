"""Training of the bundled model from scratch on the procedural world."""
