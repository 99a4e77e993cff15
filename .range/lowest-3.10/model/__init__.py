"""The network: mathematics only. It knows towers, but no ranks, devices or files."""
