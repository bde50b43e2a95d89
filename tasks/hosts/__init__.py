"""The processes of a host: `vgen worker` and its forks, solo mode, the dispatcher process."""
