"""Pictures, videos and pages."""
