"""Parts in one frame: their normalisation, pose labels, geometry and visibility.

Shapes: M triangles, S image side in pixels.
"""

import numpy as np

from partloc.synthetic.builder import Part
from partloc.synthetic.camera import DEMO_CAMERA, Camera
from partloc.synthetic.mesh import Mesh
from partloc.synthetic.render import render_image, visible_triangles

VISIBILITY_IMAGE_SIZE = 256  # pixels; visibility is measured at this size, whatever is written


def normalize_parts(parts: list[Part]) -> list[Part]:
    """Move and scale parts together: bounding box centred at the origin, longest side 1."""
    boxes = [[corner + part.position for corner in part.mesh.bounds()] for part in parts]
    low = np.min([box[0] for box in boxes], axis=0)
    high = np.max([box[1] for box in boxes], axis=0)
    factor, center = 1 / (high - low).max(), (low + high) / 2
    meshes = {id(part.mesh): part.mesh.scaled(factor, factor, factor) for part in parts}
    return [
        Part(part.name, meshes[id(part.mesh)], (part.position - center) * factor) for part in parts
    ]


def pose_label(part: Part) -> dict[str, list[float]]:
    """The content of a part's JSON file; `part` is in the frame of the whole model."""
    low, high = part.mesh.bounds()
    center, longest = part.position + (low + high) / 2, (high - low).max()
    return {
        "translation": [round(float(c), 6) + 0.0 for c in center],  # + 0.0 turns -0.0 into 0.0
        "rotation": [1.0, 0.0, 0.0, 0.0],
        "scale": [round(float(longest), 6)] * 3,
    }


def scene_geometry(parts: list[Part]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Triangles (M, 3, 3) in the common frame, their colours (M, 3) and part indices (M,)."""
    triangles = [(part.mesh.points + part.position)[part.mesh.triangles] for part in parts]
    colors = [part.mesh.colors for part in parts]
    part_index = np.repeat(np.arange(len(parts)), [len(t) for t in triangles])
    return np.concatenate(triangles), np.concatenate(colors), part_index


def normalized_triangles(mesh: Mesh) -> np.ndarray:
    """Triangles (M, 3, 3) of a mesh whose bounding box is centred and has the longest side 1."""
    low, high = mesh.bounds()
    return ((mesh.points - (low + high) / 2) / (high - low).max())[mesh.triangles]


def render_part(mesh: Mesh, size: int) -> np.ndarray:
    """Image of a single part, normalised, (S, S, 3) uint8."""
    return render_image(normalized_triangles(mesh), mesh.colors, size)


def render_part_indices(parts: list[Part], size: int, camera: Camera = DEMO_CAMERA) -> np.ndarray:
    """Index of the part visible at each pixel, (S, S) int, -1 on the background."""
    triangles, _, part_index = scene_geometry(parts)
    return np.append(part_index, -1)[visible_triangles(triangles, size, camera)]


def count_visible_pixels(parts: list[Part], camera: Camera = DEMO_CAMERA) -> list[int]:
    """Visible pixels of each part in an image of VISIBILITY_IMAGE_SIZE."""
    indices = render_part_indices(parts, VISIBILITY_IMAGE_SIZE, camera)
    return np.bincount(indices[indices >= 0], minlength=len(parts)).tolist()
