"""What is on disk: model and run directories, checkpoints, and the formats of TensorFlow and Hugging Face."""
