"""Splits, candidates, the `Recommender` protocol, metrics and statistics."""
