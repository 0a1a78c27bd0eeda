"""Where prompts come from and which of them stay."""
