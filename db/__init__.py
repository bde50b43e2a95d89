"""What is stored: the only code that changes rows."""
