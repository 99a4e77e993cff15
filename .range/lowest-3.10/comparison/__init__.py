"""Measurement of placements and of forms of the net, side by side."""
