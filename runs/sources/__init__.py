"""Tables that people bring: pools of prompts, responses, instructions, pairs."""
