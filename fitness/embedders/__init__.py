"""Where the vectors behind diversity, novelty and relevance come from."""
