"""`load_tensorflow`, under the name by which programs that use this toolkit import it."""

from command.tensorflow_setup import load_tensorflow  # noqa: F401
