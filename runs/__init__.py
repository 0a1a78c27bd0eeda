"""The life of a run: configuration, pools, journal, tables, command line."""
