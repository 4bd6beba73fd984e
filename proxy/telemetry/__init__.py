"""What the operator sees: logs."""
