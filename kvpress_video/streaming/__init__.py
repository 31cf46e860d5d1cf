"""Sessions: endless video and a conversation in one capped cache."""
