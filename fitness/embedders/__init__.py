"""Holds the embedders, one file each; diversity, novelty and relevance are computed from their vectors."""
