"""Starting, ending and watching processes."""
