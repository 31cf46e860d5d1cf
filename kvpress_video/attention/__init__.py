"""Attention: masks, captured queries, and the compression of a layer after its attention."""
