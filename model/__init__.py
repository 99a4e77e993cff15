"""The network: mathematics only, which knows towers but no ranks, devices or files."""
