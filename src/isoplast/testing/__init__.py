"""Contracts that anybody's tests can check: of a method, of a stream."""

from isoplast.testing._streams import check_stream, made_up_data

__all__ = ["check_stream", "made_up_data"]
