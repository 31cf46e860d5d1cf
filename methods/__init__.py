"""Compression methods, one per file, found by name through entry points."""
