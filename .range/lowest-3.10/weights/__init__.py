"""A net's weights and their file formats; only tensors are ever unpickled."""
