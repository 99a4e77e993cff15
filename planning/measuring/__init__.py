"""Measuring what a machine can do: layers, optimisers and links."""
