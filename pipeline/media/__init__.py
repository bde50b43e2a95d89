"""Videos as players show them: opened by content alone, their frames, their rates."""
