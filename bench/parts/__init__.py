"""What the benches share: loops, chains and stages to compare with, and made inputs."""
