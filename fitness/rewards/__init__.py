"""Holds the rewards, one file each: each gives one number for a prompt and a response."""
