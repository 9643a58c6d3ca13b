"""Sockets, framing, bodies, addresses and headers; no endpoint.

May import telemetry and limits.
"""
