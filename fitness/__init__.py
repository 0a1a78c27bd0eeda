"""What a prompt is worth."""
