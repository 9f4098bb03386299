/* The unit cube with the boxes of one case, from a point that turns around it. After report.js. */
"use strict";
const canvas = byId("view");
const SIDE_DEG = [75, -14]; // azimuth and elevation relative to the camera of the images
let view3d = null;

function makeView() {
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, alpha: true, preserveDrawingBuffer: true });
  const forward = new THREE.Vector3(...(data.camera ? data.camera.forward : [-0.6, -0.6, -0.5])).normalize();
  // The axis of the model that points up in the images.
  const up = data.camera ? data.camera.down.map((v) => -v) : [0, 0, 1];
  const axis = up.reduce((best, v, i) => (Math.abs(v) > Math.abs(up[best]) ? i : best), 0);
  const vertical = new THREE.Vector3().setComponent(axis, Math.sign(up[axis]));
  const distance = data.camera ? 1 / Math.max(data.camera.inverse_distance, 0.05) : 3.3;
  const halfWidth = data.camera ? 1 / data.camera.image_scale : 0.9; // of the image at the centre
  const camera = new THREE.PerspectiveCamera((2 * Math.atan(halfWidth / distance) * 180) / Math.PI, 1, 0.1, 60);
  camera.up.copy(vertical);
  return { renderer, camera, forward, vertical, distance, halfWidth, angles: [0, 0], scene: null };
}

function boxAt(pose, name, fill, dashed) {
  const geometry = new THREE.BoxGeometry(pose[3], pose[3], pose[3]);
  const material = dashed ? new THREE.LineDashedMaterial({ color: color(name), dashSize: 0.025, gapSize: 0.015 }) : new THREE.LineBasicMaterial({ color: color(name) });
  const edges = new THREE.LineSegments(new THREE.EdgesGeometry(geometry), material).computeLineDistances();
  if (fill) edges.add(new THREE.Mesh(geometry, new THREE.MeshBasicMaterial({ color: color(name), transparent: true, opacity: fill, depthWrite: false })));
  edges.position.set(pose[0], pose[1], pose[2]);
  return edges;
}

function lineTo(from, to, name) {
  const points = [from, to].map((pose) => new THREE.Vector3(...pose.slice(0, 3)));
  return new THREE.Line(new THREE.BufferGeometry().setFromPoints(points), new THREE.LineBasicMaterial({ color: color(name) }));
}

/* The image of the whole, on a plane through the centre. */
function imagePlane(c, view) {
  const texture = new THREE.TextureLoader().load(data.images[c.images[0]], draw3d);
  const material = new THREE.MeshBasicMaterial({ map: texture, transparent: true, opacity: 0.45, side: THREE.DoubleSide, depthWrite: false });
  const plane = new THREE.Mesh(new THREE.PlaneGeometry(2 * view.halfWidth, 2 * view.halfWidth), material);
  const axes = ["right", "down", "forward"].map((name) => new THREE.Vector3(...data.camera[name]));
  plane.quaternion.setFromRotationMatrix(new THREE.Matrix4().makeBasis(axes[0], axes[1].negate(), axes[2].negate()));
  return plane;
}

function show3d(c) {
  try {
    view3d = view3d || makeView();
  } catch {
    byId("view-note").textContent = "The 3-D view needs WebGL, which this browser does not offer.";
    return;
  }
  const scene = new THREE.Scene();
  if (data.camera) scene.add(imagePlane(c, view3d));
  scene.add(boxAt([0, 0, 0, 1], "constant"));
  if (data.camera) {
    const start = view3d.forward.clone().multiplyScalar(-0.95);
    scene.add(new THREE.ArrowHelper(view3d.forward, start, 0.35, color("constant"), 0.08, 0.05));
  }
  for (const twin of c.twins || []) scene.add(boxAt(twin.pose, "true", 0, true));
  if (c.truth) scene.add(boxAt(c.truth.pose, "true", 0.25, true), lineTo(c.truth.pose, c.pose, "predicted"));
  scene.add(boxAt(c.pose, "predicted", 0.35));
  view3d.scene = scene;
  turnTo(...SIDE_DEG);
}

function turnTo(azimuth, elevation) {
  if (!view3d) return;
  view3d.angles = [azimuth, Math.max(-110, Math.min(80, elevation))];
  draw3d();
}

function draw3d() {
  if (!view3d || !view3d.scene) return;
  const { renderer, camera, forward, vertical, distance, scene, angles } = view3d;
  const side = Math.max(1, canvas.clientWidth);
  renderer.setPixelRatio(window.devicePixelRatio);
  renderer.setSize(side, side, false);
  const from = forward.clone().negate();
  const pitchAxis = new THREE.Vector3().crossVectors(from, vertical).normalize();
  const current = Math.asin(from.dot(vertical));
  const wanted = Math.max(-1.5, Math.min(1.5, current + (angles[1] * Math.PI) / 180));
  from.applyAxisAngle(pitchAxis, wanted - current).applyAxisAngle(vertical, (angles[0] * Math.PI) / 180);
  camera.position.copy(from.multiplyScalar(distance));
  camera.lookAt(0, 0, 0);
  renderer.render(scene, camera);
}

canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
canvas.addEventListener("pointermove", (event) => {
  if (view3d && event.buttons) turnTo(view3d.angles[0] - event.movementX / 2, view3d.angles[1] + event.movementY / 2);
});
canvas.addEventListener("keydown", (event) => {
  const turn = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, 10], ArrowDown: [0, -10] }[event.key];
  if (!turn || !view3d) return;
  event.preventDefault();
  turnTo(view3d.angles[0] + turn[0], view3d.angles[1] + turn[1]);
});
for (const button of document.querySelectorAll("[data-view]")) button.addEventListener("click", () => turnTo(...(button.dataset.view === "side" ? SIDE_DEG : [0, 0])));
window.addEventListener("resize", draw3d);
