"""The compressed cache: layers, buffers, eviction and offloading."""
