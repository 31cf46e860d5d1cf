"""The contract of compression methods: rules that are checked on random entries and on the bundled models."""
