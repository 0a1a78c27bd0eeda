"""Pretrained models on disk: how they are loaded, where they compute, and what identifies them."""
