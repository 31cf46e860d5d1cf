"""Published video benchmarks, read from local copies. One file each."""
