"""The ways in which notifications come in; nothing here judges what they say."""
