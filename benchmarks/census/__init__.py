"""Census of the registered image-text-to-text model types."""
