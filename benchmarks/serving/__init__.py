"""An example server, stock or patched."""
