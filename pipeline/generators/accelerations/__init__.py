"""Put an ``Acceleration`` on a loaded pipeline, one kind a file. Model files: they import torch and diffusers."""
