"""Input images, videos and LoRAs: found, fetched, checked and digested when a file is submitted."""
