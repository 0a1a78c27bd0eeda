"""Runs the self-taught evaluator: it reads pairs from files, makes judges from a configuration, and fills folders."""
