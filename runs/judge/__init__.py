"""The self-taught evaluator at work: pairs from files, judges from a configuration, and the folders they fill."""
