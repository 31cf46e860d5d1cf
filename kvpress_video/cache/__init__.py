"""The compressed cache: layers, their buffers, what is evicted, and where offloaded entries live."""
