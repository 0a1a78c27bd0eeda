"""What a run writes: its folder, journal, tables, books and exports."""
