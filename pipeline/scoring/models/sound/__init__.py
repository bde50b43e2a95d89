"""Models that hear a clip: CLAP and Whisper, from folders as on the hub. Only these files load them."""
