"""How much of attention and of the head is computed at a time: less memory for smaller values, more speed for larger ones."""

QUERY_BLOCK = 256       # queries that attend together, to the keys up to the last of them
HEAD_ROWS = 512         # rows of logits that exist at the same time
