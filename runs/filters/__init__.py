"""Applies RIP, and the filters that it is compared with, to responses that already have rewards."""
