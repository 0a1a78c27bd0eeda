"""From a configuration to the objects that a run is made of."""
