"""Probabilities become numbers, and the simple models to beat."""
