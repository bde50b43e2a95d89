"""The rows, and the only code that changes them."""
