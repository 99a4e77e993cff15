"""A net's weights as files: what is read is checked, and nothing but tensors is ever unpickled."""
