"""What every package shares: errors, run folders, progress bars, meshes, contracts."""
