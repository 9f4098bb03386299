"""The pinhole camera and the lights that procedural objects are rendered with.

The image is square. The camera looks at the origin with z up, at the distance where the bounding
sphere of the unit cube just fits into the image. Image axes: u right, v down, 0..1 over the image.

Shapes: N points.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

CUBE_RADIUS = math.sqrt(3) / 2  # of the bounding sphere of the unit cube, model units


@dataclass(frozen=True)
class Camera:
    """A camera at an azimuth, from +x toward +y, and an elevation above the horizontal plane.

    fov_deg: full angle of view, vertical and horizontal, above 0 and below 180 degrees; a small
        one is nearly an orthographic projection.
    """

    azimuth_deg: float = 45.0
    elevation_deg: float = 30.0
    fov_deg: float = 30.0

    @cached_property
    def tan_half_fov(self) -> float:
        return math.tan(math.radians(self.fov_deg / 2))

    @cached_property
    def distance(self) -> float:
        """From the origin, model units."""
        return CUBE_RADIUS / math.sin(math.radians(self.fov_deg / 2))

    @cached_property
    def axes(self) -> np.ndarray:
        """(3, 3), unit vectors right, down and forward in the frame of the whole model; forward
        points from the camera into the scene."""
        azimuth, elevation = math.radians(self.azimuth_deg), math.radians(self.elevation_deg)
        horizontal = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        forward = -(math.cos(elevation) * horizontal + math.sin(elevation) * up)
        right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
        return np.stack([right, np.cross(forward, right), forward])

    @property
    def position(self) -> np.ndarray:
        """(3,)"""
        return -self.distance * self.axes[2]

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Project points into the image.

        Args:
            points: (N, 3), model units.
        Returns: uv (N, 2), u right and v down, 0..1 inside the image; depth (N,), the distance
            from the camera along its forward axis, model units.
        """
        offset = np.asarray(points, dtype=np.float64) - self.position  # (N, 3)
        depth = offset @ self.axes[2]  # (N,)
        lateral = np.stack([offset @ axis for axis in self.axes[:2]], axis=-1)  # (N, 2)
        half_width = self.tan_half_fov * depth  # (N,) of the visible region at that depth
        return 0.5 + lateral / (2 * half_width[:, None]), depth


@dataclass(frozen=True)
class Lights:
    """A light at the camera, one far away that is fixed in the scene, and light from everywhere.

    headlight, lamp, ambient: their strengths, no unit. lamp_direction: unit vector toward the lamp.
    """

    headlight: float = 0.78
    lamp: float = 0.42
    lamp_direction: tuple[float, float, float] = (0.32, 0.0, 0.947)  # tilted: box sides differ
    ambient: float = 0.0


DEMO_CAMERA, DEMO_LIGHTS = Camera(), Lights()


def random_camera(rng: np.random.Generator) -> Camera:
    """Any azimuth, an elevation of -10 to 80 degrees, a field of view of 2 to 70 degrees.

    Most have the elevation and the field of view of usual renders.
    """
    fov = rng.uniform(20, 50) if rng.random() < 0.6 else rng.uniform(2, 70)
    elevation = rng.uniform(5, 50) if rng.random() < 0.6 else rng.uniform(-10, 80)
    return Camera(float(rng.uniform(0, 360)), float(elevation), float(fov))


def random_lights(rng: np.random.Generator) -> Lights:
    """At the camera, fixed in the scene, or both, with some ambient light."""
    if rng.random() < 0.2:
        return DEMO_LIGHTS
    azimuth, height = rng.uniform(0, 2 * math.pi), rng.uniform(0.1, 1.0)
    radius = math.sqrt(1 - height**2)
    direction = (radius * math.cos(azimuth), radius * math.sin(azimuth), height)
    ambient, at_camera = rng.uniform(0.0, 0.45), rng.uniform(0, 1)
    strength = rng.uniform(0.75, 1.25) - ambient
    return Lights(
        float(strength * at_camera), float(strength * (1 - at_camera)), direction, float(ambient)
    )
