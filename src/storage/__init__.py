"""Model and run directories, checkpoints, and their file formats."""
