"""Engines that generate text, one file each."""
