"""The data plane: an OpenAI-compatible proxy that spends compute at inference time."""
