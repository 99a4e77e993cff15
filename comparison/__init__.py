"""The same work under each placement, measured side by side."""
