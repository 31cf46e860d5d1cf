"""Compare orderings of methods published in papers with those on an installed benchmark."""
