"""What happens around each attention: masks, captured queries, and the compression of its layer."""
