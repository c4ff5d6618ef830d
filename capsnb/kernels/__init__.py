"""Routing without stored votes. `dispatch` chooses a backend; a backend has a module of its own. Taught in chapter 5.

`route` routes by agreement. Scaled-distance and EM routing are in `capsnb.kernels.sda_em`.
"""

from capsnb.kernels.dispatch import BACKENDS, SAVES, Backend, Save, is_fake, route

__all__ = ["BACKENDS", "SAVES", "Backend", "Save", "is_fake", "route"]
