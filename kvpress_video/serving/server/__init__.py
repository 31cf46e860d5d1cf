"""`kvpress-video serve`: OpenAI's chat completions and video sessions over HTTP."""
