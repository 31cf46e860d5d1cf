"""Self-check of models without a dedicated adapter: compressed caches against the stock model on synthetic prompts."""
