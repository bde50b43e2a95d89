"""What several benchmarks share: loops, chains and stages to compare with, and generated inputs."""
