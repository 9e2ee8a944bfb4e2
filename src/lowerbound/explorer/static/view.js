// Ways to see latents in a plane: from a vector to a place, and from a place back to a vector.

const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);

export function nearestIn(points, dims, place) {
  let best = Infinity;
  let found = 0;
  for (let row = 0; row * dims < points.length; row++) {
    let distance = 0;
    for (let d = 0; d < dims; d++) distance += (points[row * dims + d] - place[d]) ** 2;
    if (distance < best) [best, found] = [distance, row];
  }
  return found;
}

const rowOf = (means, dims, row) => Array.from(means.subarray(row * dims, (row + 1) * dims));

function placed(means, dims, toPlane) {
  const n = means.length / dims;
  const points = new Float32Array(2 * n);
  for (let row = 0; row < n; row++) points.set(toPlane(rowOf(means, dims, row)), 2 * row);
  return points;
}

// Two latents; the others stay as they are.
export function axes(means, dims, i, j) {
  const toPlane = (z) => [z[i], z[j]];
  const move = (z, [x, y]) => z.map((value, d) => (d === i ? x : d === j ? y : value));
  return { points: placed(means, dims, toPlane), toPlane, move, titles: [`z${i + 1}`, `z${j + 1}`] };
}

// The plane in which the rows vary most; what stands at right angles to it stays as it is.
export function principal(means, dims, { center, axes: [u, v], share }) {
  const toPlane = (z) => {
    const offset = z.map((value, d) => value - center[d]);
    return [dot(offset, u), dot(offset, v)];
  };
  const move = (z, [x, y]) => {
    const [a, b] = toPlane(z);
    return z.map((value, d) => value + (x - a) * u[d] + (y - b) * v[d]);
  };
  const title = (k) => `principal axis ${k + 1} (${Math.round(100 * share[k])} % of the variance)`;
  return { points: placed(means, dims, toPlane), toPlane, move, titles: [title(0), title(1)] };
}

// One latent: labels lie above each other, and the height within a label means nothing.
export function line(means, codes, names) {
  const points = new Float32Array(2 * means.length);
  means.forEach((value, row) => {
    const jitter = ((row * 0.61803398875) % 1) - 0.5;
    points.set([value, (codes ? codes[row] : 0) + 0.7 * jitter], 2 * row);
  });
  const middle = ((names?.length ?? 1) - 1) / 2;
  return {
    points,
    toPlane: (z) => [z[0], middle],
    move: (z, [x]) => [x],
    titles: ["z1", names ? "label" : ""],
    names: names ?? [""],
    flat: true,
  };
}

// A map that is not linear has no way back: the point is always a row.
export function embedded(points, means, dims) {
  const toPlane = (z) => {
    const row = nearestIn(means, dims, z);
    return [points[2 * row], points[2 * row + 1]];
  };
  const move = (z, place) => rowOf(means, dims, nearestIn(points, 2, place));
  return { points, toPlane, move, titles: ["UMAP 1", "UMAP 2"], snaps: true };
}

export { rowOf };
