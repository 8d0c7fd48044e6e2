"""Placeholder."""


class LowLatency:
    pass
