"""The engine: prompts as individuals, the generational loop, budgets and seeds."""
