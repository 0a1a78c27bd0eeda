"""Writes what a run leaves behind: its folder, journal, tables, accounts and exports."""
