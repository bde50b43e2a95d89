"""Safe handling of files from users: how they are opened, read, named and hashed."""
