"""Workers, executors and the scheduler that run a sweep."""
