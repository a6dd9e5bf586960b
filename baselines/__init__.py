"""Baseline recommenders, one file a model, each readable next to its paper."""
