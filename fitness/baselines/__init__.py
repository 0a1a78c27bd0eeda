"""Holds the filters that RIP was compared with (arXiv 2501.18578, appendix A.5)."""
