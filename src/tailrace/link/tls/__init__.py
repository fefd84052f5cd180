"""TLS with the service: trusted certificates, the handshake, its failures in plain words.

May not hold WebSocket or HTTP.
"""
