"""Workers, executors and the scheduler of a sweep."""
