"""Videos as players show them: opened by content, their frames and rates."""
