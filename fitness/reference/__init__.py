"""Gives log-probabilities of whole answers under the policy, which preference trainers need of a reference model."""
