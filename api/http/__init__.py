"""Handles sockets, framing, bodies, addresses and headers; has no endpoint.

May import telemetry and limits.
"""
