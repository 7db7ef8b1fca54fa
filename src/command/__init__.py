"""What every command shares: errors, flags, files that are complete or absent, importing TensorFlow."""
