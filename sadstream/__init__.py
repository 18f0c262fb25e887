"""Distil agents from the logs you have."""

__version__ = "0.1.0"
