"""Rows of attention and of logits computed at a time: memory for speed."""

QUERY_BLOCK = 256       # queries that attend together, to the keys up to the last of them
HEAD_ROWS = 512         # rows of logits that exist at the same time
