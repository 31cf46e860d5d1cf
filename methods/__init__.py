"""The compression methods, one file each, found by name through entry points."""
