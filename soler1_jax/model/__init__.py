"""The transformer: picture encoder, grounding, decoder, and presets."""
