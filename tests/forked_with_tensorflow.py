"""Imported by the process that tests' workers are forked from; see worker_group."""

import runtime

runtime.load_tensorflow(devices=False, several=True)
