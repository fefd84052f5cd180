"""Soak of the device agent: tunnels by MQTT and at the service, while everything is restarted.

``python -m soak.agent --help`` tells how; CONTRIBUTING.md tells when.
"""
