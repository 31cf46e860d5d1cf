"""Statistics over the rows of a sweep."""
