"""The contract of compression methods: rules for each of them, tried on random entries and on the bundled models."""
