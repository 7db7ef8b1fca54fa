"""A training run, from its flags to its records."""
