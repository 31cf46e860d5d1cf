"""Ways into programs that know nothing of this package."""
