"""Models, prompts and meters of the cases."""
