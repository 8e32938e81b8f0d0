// Slices on canvases: which way planes lie, how values become colours, what is drawn on top.

// Planes as radiologists look at them: the patient's left on the right, front and head on top.
const PLANES = {
  axial: { through: 0, down: 1, right: 2, flip: false, letters: ["A", "P", "R", "L"] },
  coronal: { through: 1, down: 0, right: 2, flip: true, letters: ["H", "F", "R", "L"] },
  sagittal: { through: 2, down: 0, right: 1, flip: true, letters: ["H", "F", "A", "P"] },
};
const AXES = ["z", "y", "x"];

// Colours (0 to 255) of a share from 0 to 1 of the window; the same as in the colour bars.
const COLOURS = {
  grey: (t) => [255 * t, 255 * t, 255 * t],
  signed: (t) => (t < 0.5 ? [70, 150, 255] : [255, 130, 30]).map((c) => c * Math.abs(2 * t - 1)),
  dimmed: (t) => COLOURS.signed(t).map((c) => 0.35 * c),  // errors outside the mask
  spread: (t) => [255 * t, 190 * t, 80 * t],
};

// A table of 256 colours as 32-bit pixels.
function lookup(name) {
  const bytes = new Uint8ClampedArray(256 * 4);
  for (let i = 0; i < 256; i++) bytes.set([...COLOURS[name](i / 255), 255], 4 * i);
  return new Uint32Array(bytes.buffer);
}

const LOOKUPS = Object.fromEntries(Object.keys(COLOURS).map((name) => [name, lookup(name)]));

// As many pixels as the screen has there; this also wipes the canvas.
function fitCanvas(canvas) {
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * devicePixelRatio));
  return canvas;
}

// One slice as a picture of its own, a pixel a voxel. `minus` is taken away from `volume` if given; what
// lies outside of `mask`, if given, is dimmed.
function sliceCanvas(volume, minus, mask, shape, plane, at, window_, colours) {
  const { through, down, right, flip } = PLANES[plane];
  const strides = [shape[1] * shape[2], shape[2], 1];
  const height = shape[down], width = shape[right];
  const canvas = make("canvas", { width, height });
  const picture = new ImageData(width, height);
  const pixels = new Uint32Array(picture.data.buffer);
  const [low, high] = window_, scale = 255 / Math.max(high - low, 1e-12), table = LOOKUPS[colours];
  for (let j = 0; j < height; j++) {
    let from = at * strides[through] + (flip ? height - 1 - j : j) * strides[down];
    for (let i = 0; i < width; i++, from += strides[right]) {
      const value = minus ? volume[from] - minus[from] : volume[from];
      pixels[j * width + i] = (mask && !mask[from] ? LOOKUPS.dimmed : table)[Math.round(Math.min(255, Math.max(0, (value - low) * scale)))];
    }
  }
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

// Where a plane lies on a canvas: pixels a mm, and the pixel of its upper left corner.
function placement(canvas, plane, shape, spacing, scale, centre) {
  const { down, right, flip } = PLANES[plane];
  const middle = flip ? shape[down] * spacing[down] - centre[down] : centre[down];
  return {
    left: canvas.width / 2 - centre[right] * scale,
    top: canvas.height / 2 - middle * scale,
    across: spacing[right] * scale,
    below: spacing[down] * scale,
  };
}

// The voxel (z, y, x) under a pixel; the slice is that of `at`. null outside.
function voxelUnder(x, y, place, plane, shape, at) {
  const { down, right, flip } = PLANES[plane];
  const column = Math.floor((x - place.left) / place.across);
  const row = Math.floor((y - place.top) / place.below);
  if (column < 0 || row < 0 || column >= shape[right] || row >= shape[down]) return null;
  const voxel = at.slice();
  voxel[right] = column;
  voxel[down] = flip ? shape[down] - 1 - row : row;
  return voxel;
}

function drawCross(context, place, plane, shape, at) {
  const { down, right, flip } = PLANES[plane];
  const { width, height } = context.canvas;
  const x = place.left + (at[right] + 0.5) * place.across;
  const y = place.top + ((flip ? shape[down] - 1 - at[down] : at[down]) + 0.5) * place.below;
  const gap = 10 * devicePixelRatio;  // what is looked at stays visible
  context.strokeStyle = "rgba(255, 211, 61, .75)";
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (const [from, to] of [[0, x - gap], [x + gap, width]]) { context.moveTo(from, y); context.lineTo(to, y); }
  for (const [from, to] of [[0, y - gap], [y + gap, height]]) { context.moveTo(x, from); context.lineTo(x, to); }
  context.stroke();
}

function drawOutline(context, place, plane, shape, at, mask) {
  const { through, down, right, flip } = PLANES[plane];
  const strides = [shape[1] * shape[2], shape[2], 1];
  const inside = (j, i) => j >= 0 && i >= 0 && j < shape[down] && i < shape[right]
    && 0 !== mask[at[through] * strides[through] + (flip ? shape[down] - 1 - j : j) * strides[down] + i * strides[right]];
  context.strokeStyle = "rgba(90, 220, 120, .9)";
  context.lineWidth = devicePixelRatio;
  context.beginPath();
  for (let j = 0; j <= shape[down]; j++) {
    for (let i = 0; i <= shape[right]; i++) {
      const x = place.left + i * place.across, y = place.top + j * place.below;
      if (inside(j, i) !== inside(j - 1, i)) { context.moveTo(x, y); context.lineTo(x + place.across, y); }
      if (inside(j, i) !== inside(j, i - 1)) { context.moveTo(x, y); context.lineTo(x, y + place.below); }
    }
  }
  context.stroke();
}

// The patient's sides and a scale bar.
function drawMarks(context, plane, scale) {
  const { width, height } = context.canvas, unit = devicePixelRatio;
  const say = (text, x, y, align) => {
    context.textAlign = align;
    context.lineWidth = 3 * unit;
    context.strokeStyle = "#000";
    context.strokeText(text, x, y);
    context.fillStyle = "#f2f2f2";
    context.fillText(text, x, y);
  };
  context.font = `${12 * unit}px system-ui, sans-serif`;
  const places = [[width / 2, 13 * unit, "center"], [width / 2, height - 5 * unit, "center"],
    [5 * unit, height / 2, "left"], [width - 5 * unit, height / 2, "right"]];
  PLANES[plane].letters.forEach((letter, i) => say(letter, ...places[i]));
  const length = [100, 50, 20, 10, 5, 2, 1].find((mm) => mm * scale < width / 4) || 1;
  const end = 6 * unit + length * scale, base = height - 6 * unit;
  context.beginPath();
  context.lineWidth = 2 * unit;
  context.strokeStyle = "#f2f2f2";
  context.moveTo(6 * unit, base);
  context.lineTo(end, base);
  context.stroke();
  say(length >= 10 ? `${length / 10} cm` : `${length} mm`, 6 * unit, base - 5 * unit, "left");
}
