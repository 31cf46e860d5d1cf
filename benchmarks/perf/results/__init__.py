"""Measurements: goals, files, tables and the page."""
