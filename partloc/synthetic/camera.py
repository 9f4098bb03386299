"""The demo's one camera: where it stands, and where a point lands in its picture.

Perspective, square, looking at the origin with z up, at the distance where the sphere round the
unit cube just fits in the frame. Image axes: u right, v down, both 0..1 over the picture.

Shapes: N points.
"""

import math

import numpy as np

VIEW_ANGLE_DEG = 30.0  # full vertical angle; the image is square, so the horizontal one too
AZIMUTH_DEG = 45.0  # from +x toward +y
ELEVATION_DEG = 30.0  # above the level plane
HALF_WIDTH = math.tan(math.radians(VIEW_ANGLE_DEG / 2))  # of the frame, at a distance of 1
DISTANCE = math.sqrt(3) / 2 / math.sin(math.radians(VIEW_ANGLE_DEG / 2))  # model units, 3.346


def _axes() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    azimuth, elevation = math.radians(AZIMUTH_DEG), math.radians(ELEVATION_DEG)
    level = np.array([math.cos(azimuth), math.sin(azimuth), 0.0])
    forward = -(math.cos(elevation) * level + math.sin(elevation) * np.array([0.0, 0.0, 1.0]))
    right = np.array([-math.sin(azimuth), math.cos(azimuth), 0.0])
    return right, np.cross(forward, right), forward


# Unit vectors (3,) in the whole's frame. FORWARD points from the camera into the scene.
RIGHT, DOWN, FORWARD = _axes()
POSITION = -DISTANCE * FORWARD


def project(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where points of the scene land in the picture.

    points: (N, 3), model units. Returns (uv, depth): uv (N, 2), u right and v down, 0..1 inside
    the frame; depth (N,), distance along FORWARD from the camera, model units.
    """
    offset = np.asarray(points, dtype=np.float64) - POSITION  # (N, 3)
    depth = offset @ FORWARD  # (N,)
    across = np.stack([offset @ RIGHT, offset @ DOWN], axis=-1)  # (N, 2)
    half_width = HALF_WIDTH * depth  # (N,) of the frame, there
    return 0.5 + across / (2 * half_width[:, None]), depth
