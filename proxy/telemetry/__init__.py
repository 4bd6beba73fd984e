"""What the operator sees: traces, usage, metrics, conversations, logs."""
