"""One model behind an HTTP API and a local page."""
