"""What becomes of the time labels of frames, measured on the bundled Qwen3-VL."""
