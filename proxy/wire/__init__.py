"""Bytes to types and back; pure."""
