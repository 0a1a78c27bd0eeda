"""Holds the self-taught evaluator: a pairwise judge that learns from pairs a model makes itself (arXiv 2408.02666)."""
