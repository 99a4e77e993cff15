"""What a run leaves: its folder, checkpoints, metrics, pictures and W&B run."""
