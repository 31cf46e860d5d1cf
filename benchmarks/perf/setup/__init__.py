"""What a case runs on: models, prompts, clocks."""
