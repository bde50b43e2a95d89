"""Clients that vgen does not depend on, against a real server: `make test-clients`."""
