"""Errors, files and the cache folder: what every room needs, and each once."""
