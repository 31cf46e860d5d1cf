"""What a sweep will cost, before it runs."""
