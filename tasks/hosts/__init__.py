"""The processes of a host: `vgen worker` and its forks, the solo line, the dispatcher's own process."""
