// From the page's text back to volumes: the counterpart of encode.py.
// Volumes are Float32Arrays, masks Uint8Arrays; x fastest, then y, then z.

const SIDE = 4;  // voxels of a block
const WAVES = [0, 1, 2, 3].map((k) =>  // the cosine transform's: [frequency][voxel]
  [0, 1, 2, 3].map((i) => (k ? Math.SQRT1_2 : 0.5) * Math.cos((Math.PI * (2 * i + 1) * k) / (2 * SIDE))));

async function inflate(text) {
  const packed = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The text holds whole steps, folded to 0, -1, 1, -2, 2, ...: all low bytes, then all high ones; first
// the means of all blocks, then each kind of detail of all blocks.
async function decodeVolume({ text, step }, shape) {
  const bytes = await inflate(text), n = bytes.length / 2, nBlocks = n / SIDE ** 3;
  const volume = new Float32Array(shape[0] * shape[1] * shape[2]);
  const [, across, along] = shape.map((size) => Math.ceil(size / SIDE));
  const block = new Float32Array(SIDE ** 3);
  for (let b = 0; b < nBlocks; b++) {
    for (let k = 0, i = b; i < n; k++, i += nBlocks) {
      const folded = bytes[i] | (bytes[n + i] << 8);
      block[k] = step * (folded & 1 ? -(folded + 1) / 2 : folded / 2);
    }
    for (const [stride, firsts] of LINES) invertAlong(block, stride, firsts);
    const z0 = SIDE * Math.floor(b / (across * along)), y0 = SIDE * (Math.floor(b / along) % across), x0 = SIDE * (b % along);
    for (let z = z0; z < Math.min(z0 + SIDE, shape[0]); z++) {
      for (let y = y0; y < Math.min(y0 + SIDE, shape[1]); y++) {
        const row = block.subarray(16 * (z - z0) + 4 * (y - y0), 16 * (z - z0) + 4 * (y - y0) + Math.min(SIDE, shape[2] - x0));
        volume.set(row, (z * shape[1] + y) * shape[2] + x0);
      }
    }
  }
  return volume;
}

// The first of the four numbers of each line along z, y and x, by the distance between them.
const LINES = [16, 4, 1].map((stride) =>
  [stride, [...Array(SIDE ** 3).keys()].filter((i) => Math.floor(i / stride) % SIDE === 0)]);

function invertAlong(block, stride, firsts) {
  for (const i of firsts) {
    const a = block[i], b = block[i + stride], c = block[i + 2 * stride], d = block[i + 3 * stride];
    for (let j = 0; j < SIDE; j++) {
      block[i + j * stride] = WAVES[0][j] * a + WAVES[1][j] * b + WAVES[2][j] * c + WAVES[3][j] * d;
    }
  }
}

async function decodeMask(text, shape) {
  const bytes = await inflate(text);
  return Uint8Array.from({ length: shape[0] * shape[1] * shape[2] }, (_, i) => (bytes[i >> 3] >> (7 - (i & 7))) & 1);
}
