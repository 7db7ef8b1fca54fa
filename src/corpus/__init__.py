"""Corpora: finding files, reading and encoding text, token files, batches."""
