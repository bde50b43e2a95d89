"""Input images, videos and LoRAs: located, downloaded, checked and hashed when a file is submitted."""
