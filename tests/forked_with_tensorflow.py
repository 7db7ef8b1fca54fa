"""Imported by the process that tests' workers are forked from; see worker_group."""

from command import tensorflow_setup

tensorflow_setup.load_tensorflow(devices=False, several=True)
