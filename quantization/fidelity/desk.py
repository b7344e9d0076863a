"""Whether the simulated desk can be used here: it needs mujoco and off-screen pictures."""

from __future__ import annotations

import importlib.util

from quantization.fidelity.errors import FidelityError


def require_desk() -> None:
    """Raise `FidelityError`, with what helps, unless the desk can be drawn; takes a second."""
    from sim.gl import GlError, ensure_gl, gl_environment

    if importlib.util.find_spec("mujoco") is None:
        raise FidelityError("the simulated desk needs mujoco; install it with 'pip install mujoco'")
    try:
        ensure_gl(gl_environment())
    except GlError as error:
        raise FidelityError(str(error)) from None
