"""Records of a run: its folder, checkpoints, metrics, pictures and W&B run."""
