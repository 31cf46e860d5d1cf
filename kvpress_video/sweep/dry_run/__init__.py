"""The dry run: counts and cache sizes of a sweep before it runs."""
