"""From raw frames to the files of a finished clip: video, poster, contact strip and sidecar."""
