"""A generator in a process of its own: the parent's handle, the child, and what they say to each other."""
