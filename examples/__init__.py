"""Programs that the chapter on model parallelism runs."""
