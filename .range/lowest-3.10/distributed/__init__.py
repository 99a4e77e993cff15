"""Everything that knows a rank."""
