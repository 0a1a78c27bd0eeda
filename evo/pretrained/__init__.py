"""Pretrained models on disk: loading, devices, fingerprints."""
