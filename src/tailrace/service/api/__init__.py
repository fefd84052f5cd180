"""The control API: AWS JSON 1.1 over HTTPS, signed with Signature Version 4."""
