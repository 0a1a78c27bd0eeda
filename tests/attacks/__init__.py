"""The attacker's kit: what a hostile server, file, journal or text may do, and what must not come of it."""
