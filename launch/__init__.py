"""How processes start, end and are watched."""
