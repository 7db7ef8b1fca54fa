"""load_tensorflow, where programs that use this toolkit import it from."""

from command.tensorflow_setup import load_tensorflow  # noqa: F401
