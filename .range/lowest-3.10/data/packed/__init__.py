"""Packed images: decoded and resized once by prepare.py, then read as plain pixels."""
