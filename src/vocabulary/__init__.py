"""Byte-level byte-pair encoding: cutting texts, merging, the two vocabulary files, learning a vocabulary."""
