"""Sessions that watch a video while it is made: their rows, their segments' order, and their end."""
