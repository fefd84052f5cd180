"""The data plane: links of local proxies, and what passes between the two sides of a tunnel.

May not hold rules of the control API.
"""
