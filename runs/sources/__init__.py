"""Reads the tables that users supply: pools of prompts, responses, instructions and pairs."""
