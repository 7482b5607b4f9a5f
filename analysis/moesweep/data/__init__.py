"""Text to token stores: what `moesweep-data` does. The store's format is in analysis/TOKENS.md."""
