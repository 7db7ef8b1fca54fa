"""Byte-pair encoding: pieces, merges, the two files, learning one."""
