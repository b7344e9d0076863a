"""Draw what a camera sees, in colour and in depth, in this process.

The pictures are those of `sim.cameras`, byte for byte. Each `Pictures` has an OpenGL context of its
own, which belongs to the thread that made it; processes that draw side by side need one each.
"""

from __future__ import annotations

import mujoco
import numpy as np

MAX_GEOMS = 500
MM_PER_M = 1000.0


class Pictures:
    """Draws the cameras of a model off-screen; `size` is (width, height)."""

    def __init__(
        self, model: mujoco.MjModel, size: tuple[int, int], *, shadows: bool = False
    ) -> None:
        """Open an off-screen context; raises GlError's cause, see `sim.gl.ensure_gl`."""
        # Imported here: it needs the EGL library, and physics alone does not.
        from mujoco.egl import GLContext

        width, height = size
        self.size = size
        model.vis.global_.offwidth = max(width, model.vis.global_.offwidth)
        model.vis.global_.offheight = max(height, model.vis.global_.offheight)
        self._model = model
        self._gl = GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_150)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self._scene = mujoco.MjvScene(model, maxgeom=MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = shadows
        self._options = mujoco.MjvOption()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._rectangle = mujoco.MjrRect(0, 0, width, height)
        self._colour = np.empty((height, width, 3), np.uint8)
        self._depth = np.empty((height, width), np.float32)

    def draw(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return a new (height, width, 3) uint8 RGB picture of `data`, whose frames are current."""
        self._update(data, camera)
        self._render(self._colour, None)
        return np.flipud(self._colour).copy()

    def draw_with_depth(self, data: mujoco.MjData, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Return the picture and (height, width) uint16 millimetres along the optical axis.

        Where there is nothing the depth is that of the far plane, 7200 mm.
        """
        colour = self.draw(data, camera)
        # Flat colours: no sky, which has a depth of its own, and samples at the pixels' centres.
        self._render_flat(None, self._depth)
        return colour, np.flipud(self._depth_mm())

    def draw_owners(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return the body that each pixel shows, (height, width) int64, -1 for none."""
        self._update(data, camera)
        self._render_flat(self._colour, None)
        bodies = np.full(self._scene.ngeom + 1, -1)
        for geom in self._scene.geoms[: self._scene.ngeom]:
            if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                bodies[geom.segid + 1] = self._model.geom_bodyid[geom.objid]
        low, middle, high = (self._colour[..., byte].astype(np.int32) for byte in range(3))
        return np.flipud(bodies[low | middle << 8 | high << 16])  # 0 is the background

    def close(self) -> None:
        """Free the context."""
        self._context.free()
        self._gl.free()

    def _update(self, data: mujoco.MjData, camera: str) -> None:
        self._camera.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model,
            data,
            self._options,
            None,
            self._camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self._scene,
        )

    def _render_flat(self, colour: np.ndarray | None, depth: np.ndarray | None) -> None:
        """Render every geom in one colour, which is its number and one."""
        kept = self._scene.flags.copy()
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SEGMENT] = True
        self._scene.flags[mujoco.mjtRndFlag.mjRND_IDCOLOR] = True
        self._render(colour, depth)
        self._scene.flags[:] = kept

    def _render(self, colour: np.ndarray | None, depth: np.ndarray | None) -> None:
        self._gl.make_current()
        mujoco.mjr_render(self._rectangle, self._scene, self._context)
        mujoco.mjr_readPixels(colour, depth, self._rectangle, self._context)

    def _depth_mm(self) -> np.ndarray:
        """Undo the projection: the buffer is 1 at the near plane, 0 at the far one, 1/z between."""
        extent_m = self._model.stat.extent
        near_m = self._model.vis.map.znear * extent_m
        far_m = self._model.vis.map.zfar * extent_m
        nearness = self._depth.astype(np.float64) * (1.0 / near_m - 1.0 / far_m) + 1.0 / far_m
        return np.rint(MM_PER_M / nearness).astype(np.uint16)
