"""One Qwen3-VL-shaped transformer, driven by a config."""
