"""Measurements, their goals, files, tables and page."""
