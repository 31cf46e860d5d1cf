"""Random entries of one video, as `kvpress_video.contract` makes them."""

from kvpress_video.contract.random_entries import GRID, HEAD_DIM, ROPE, WINDOW, first_frames, footage, later, thinned

__all__ = ["GRID", "HEAD_DIM", "ROPE", "WINDOW", "first_frames", "footage", "later", "thinned"]
