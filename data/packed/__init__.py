"""Packed images: the index, the writer (prepare.py) and the reader."""
