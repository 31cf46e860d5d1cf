"""Comparison of the treatments of frame labels, on the bundled Qwen3-VL."""
