"""A reward server and its thin client."""
