"""The benchmark cases, one file each."""
