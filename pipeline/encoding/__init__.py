"""Make the files of a finished clip from raw frames: video, poster, contact strip and sidecar."""
