"""Find the best method and settings for clips, a budget and a model."""
