"""Who may ask for what: access keys and their policies.

May not hold tunnels or HTTP.
"""
