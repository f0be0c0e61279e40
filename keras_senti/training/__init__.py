"""Fits a model so that a kill costs nothing."""
