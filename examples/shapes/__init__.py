"""How ``shapes-wan`` was made: the renderer of its world, its training, and its evaluation."""
