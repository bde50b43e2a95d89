"""How ``Acceleration`` is put on a loaded pipeline, one way a file. Model files: they import torch and diffusers."""
