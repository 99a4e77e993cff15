"""Errors, files and the cache folder, shared by all packages."""
