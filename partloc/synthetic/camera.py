"""The fixed perspective camera that renders all procedural objects.

The image is square. The camera looks at the origin with z up, at the distance where the bounding
sphere of the unit cube just fits into the image. Image axes: u right, v down, 0..1 over the image.

Shapes: N points.
"""

import math

import numpy as np

FIELD_OF_VIEW_DEG = 30.0  # full angle, vertical and horizontal
AZIMUTH_DEG = 45.0  # from +x toward +y
ELEVATION_DEG = 30.0  # above the horizontal plane
TAN_HALF_FOV = math.tan(math.radians(FIELD_OF_VIEW_DEG / 2))
DISTANCE = math.sqrt(3) / 2 / math.sin(math.radians(FIELD_OF_VIEW_DEG / 2))  # 3.346 model units


def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    horizontal = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    up = np.array([0.0, 0.0, 1.0])
    forward = -(math.cos(elevation) * horizontal + math.sin(elevation) * up)
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    return right, np.cross(forward, right), forward


# Unit vectors (3,) in the frame of the whole model. FORWARD points from the camera into the scene.
RIGHT, DOWN, FORWARD = _axes()
POSITION = -DISTANCE * FORWARD


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Project points into the image.

    Args:
        points: (N, 3), model units.
    Returns: uv (N, 2), u right and v down, 0..1 inside the image; depth (N,), the distance from
        the camera along FORWARD, model units.
    """
    offset = np.asarray(points, dtype=np.float64) - POSITION  # (N, 3)
    depth = offset @ FORWARD  # (N,)
    lateral = np.stack([offset @ RIGHT, offset @ DOWN], axis=-1)  # (N, 2)
    half_width = TAN_HALF_FOV * depth  # (N,) of the visible region at that depth
    return 0.5 + lateral / (2 * half_width[:, None]), depth
