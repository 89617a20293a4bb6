"""API keys, and the callers that they stand for."""
