"""Layers, and the one place where a network is put together."""
