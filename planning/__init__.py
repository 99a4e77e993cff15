"""Predicting placements: machines, links, work, traffic and what they cost."""
