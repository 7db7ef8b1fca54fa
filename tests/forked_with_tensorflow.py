"""Imports TensorFlow in the process that worker_group forks workers from."""

from command import tensorflow_setup

tensorflow_setup.load_tensorflow(devices=False, several=True)
