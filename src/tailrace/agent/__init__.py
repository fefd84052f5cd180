"""The device agent: notifications of tunnels in, destinations of these tunnels up.

Built on the library; nothing here knows the tunnel protocol, argv or exit codes.
"""
