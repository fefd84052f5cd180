"""Tell things about their tunnels: over MQTT, or through a command.

May not decide anything about tunnels.
"""
