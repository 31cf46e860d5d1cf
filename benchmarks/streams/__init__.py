"""Benchmarks of streams: how long, how many, how well."""
