// From the page's text back to volumes: base64, zlib, whole steps, CDF 9/7 wavelet.
// The counterpart of encode.py and wavelet.py. Volumes are Float32Arrays, x fastest, then y, then z.

const LEVELS = 4, SHORTEST = 8;
const LIFTS = [-1.586134342059924, -0.052980118572961, 0.882911075530934, 0.443506852043971];
const SCALE = 1.230174104914001;

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function decodeVolume(picture, shape) {
  const bytes = await inflate(picture.text);
  const volume = new Float32Array(shape[0] * shape[1] * shape[2]);
  let next = 0;
  for (const [z, y, x] of bandsOf(shape)) {
    for (let k = z[0]; k < z[1]; k++) {
      for (let j = y[0]; j < y[1]; j++) {
        const row = (k * shape[1] + j) * shape[2];
        for (let i = x[0]; i < x[1]; i++) {
          let folded = bytes[next] & 127;
          for (let bits = 7; bytes[next++] & 128; bits += 7) folded += (bytes[next] & 127) * 2 ** bits;
          volume[row + i] = picture.step * (folded & 1 ? -(folded + 1) / 2 : folded / 2);
        }
      }
    }
  }
  for (const { size, axes } of levelsOf(shape).reverse()) {
    for (const axis of axes.slice().reverse()) joinAxis(volume, shape, size, axis);
  }
  return volume;
}

async function decodeMask(text, shape) {
  const bytes = await inflate(text);
  const mask = new Uint8Array(shape[0] * shape[1] * shape[2]);
  for (let i = 0; i < mask.length; i++) mask[i] = (bytes[i >> 3] >> (7 - (i & 7))) & 1;
  return mask;
}

// The corner that each level has split, finest first, and along which axes.
function levelsOf(shape) {
  const found = [];
  let size = shape.slice();
  for (let level = 0; level < LEVELS; level++) {
    const axes = [0, 1, 2].filter((axis) => size[axis] > SHORTEST);
    if (!axes.length) break;
    found.push({ size, axes });
    size = size.map((n) => (n > SHORTEST ? (n + 1) >> 1 : n));
  }
  return found;
}

// [first, last + 1] along z, y, x of each band: the overview first, then from coarse to fine.
function bandsOf(shape) {
  let lows = shape.map((n) => [0, n]);
  let found = [];
  for (const { size, axes } of levelsOf(shape)) {
    const parts = size.map((n, axis) =>
      axes.includes(axis) ? [[0, (n + 1) >> 1], [(n + 1) >> 1, n]] : [[0, n]]);
    const level = [];
    for (const x of parts[2]) for (const y of parts[1]) for (const z of parts[0]) level.push([z, y, x]);
    lows = level[0];
    found = level.slice(1).concat(found);
  }
  return [lows, ...found];
}

// Rows along x are joined side by side where the axis is another: that reads memory in order.
function joinAxis(volume, shape, size, axis) {
  const strides = [shape[1] * shape[2], shape[2], 1];
  const width = axis === 2 ? 1 : size[2];
  const [a, b] = axis === 2 ? [0, 1] : [1 - axis, 2];
  const lines = new Float32Array(size[axis] * width);
  for (let i = 0; i < size[a]; i++) {
    for (let j = 0; j < (axis === 2 ? size[b] : 1); j++) {
      joinLines(volume, i * strides[a] + j * strides[b], strides[axis], size[axis], width, lines);
    }
  }
}

function joinLines(volume, first, stride, n, width, lines) {
  const middle = (n + 1) >> 1;
  for (let k = 0; k < n; k++) {
    const from = first + k * stride, to = (k < middle ? 2 * k : 2 * (k - middle) + 1) * width;
    const scale = k < middle ? 1 / SCALE : SCALE;
    for (let i = 0; i < width; i++) lines[to + i] = volume[from + i] * scale;
  }
  for (let lift = 3; lift >= 0; lift--) {
    const weight = LIFTS[lift];
    for (let k = lift % 2 ? 0 : 1; k < n; k += 2) {  // beyond the ends lines are mirrored
      const here = k * width;
      const before = (k > 0 ? k - 1 : 1) * width, after = (k + 1 < n ? k + 1 : n - 2) * width;
      for (let i = 0; i < width; i++) lines[here + i] -= weight * (lines[before + i] + lines[after + i]);
    }
  }
  for (let k = 0; k < n; k++) {
    const from = k * width, to = first + k * stride;
    for (let i = 0; i < width; i++) volume[to + i] = lines[from + i];
  }
}
