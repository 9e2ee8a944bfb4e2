// What is drawn on the map: axes, rows, what the plane decodes to, and on a canvas above, what moves.

export const MARGIN = { left: 52, right: 14, top: 12, bottom: 40 };

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

export function drawBase(map) {
  const pen = map.base.getContext("2d");
  const [ink, line] = [css("--soft"), css("--grid")];
  pen.clearRect(0, 0, map.width, map.height);
  pen.font = `12px ${css("--sans")}`;
  drawAxes(map, pen, ink, line);
  if (map.plane) clip(map, pen, () => drawPlane(map, pen));
  drawPoints(map, pen);
}

function drawAxes(map, pen, ink, line) {
  const [left, right, bottom, top] = map.box;
  const [x0, y0] = [MARGIN.left, map.height - MARGIN.bottom];
  const text = (value) => String(value).replace("-", "−");
  pen.strokeStyle = line;
  pen.fillStyle = ink;
  pen.lineWidth = 1;
  pen.textAlign = "center";
  for (const value of ticks(left, right, map.width / 90)) {
    const x = Math.round(map.toScreen([value, 0])[0]) + 0.5;
    stroke(pen, [x, MARGIN.top], [x, y0]);
    pen.fillText(text(value), x, y0 + 16);
  }
  pen.textAlign = "right";
  const names = map.view.names?.map((name, k) => [k, name.slice(0, 7)]);
  for (const [value, name] of names ?? ticks(bottom, top, map.height / 70).map((v) => [v, text(v)])) {
    const y = Math.round(map.toScreen([0, value])[1]) + 0.5;
    if (!names) stroke(pen, [x0, y], [map.width - MARGIN.right, y]);
    pen.fillText(name, x0 - 8, y + 4);
  }
  pen.textAlign = "center";
  pen.font = `600 12px ${css("--sans")}`;
  pen.fillText(map.view.titles[0], (x0 + map.width - MARGIN.right) / 2, map.height - 6);
  pen.save();
  pen.translate(12, (MARGIN.top + y0) / 2);
  pen.rotate(-Math.PI / 2);
  pen.fillText(map.view.titles[1], 0, 0);
  pen.restore();
}

function drawPlane(map, pen) {
  const { items, columns, rows, box } = map.plane;
  const corner = (i, j) =>
    map.toScreen([
      box[0] + (i / columns) * (box[1] - box[0]),
      box[3] - (j / rows) * (box[3] - box[2]),
    ]).map(Math.round);
  pen.imageSmoothingEnabled = false;
  items.forEach(({ bitmap, left: from, width: w, height: h }, k) => {
    const [i, j] = [k % columns, Math.floor(k / columns)];
    const [[left, top], [right, bottom]] = [corner(i, j), corner(i + 1, j + 1)];
    pen.drawImage(bitmap, from, 0, w, h, left, top, right - left, bottom - top);
  });
  pen.imageSmoothingEnabled = true;
}

function drawPoints(map, pen) {
  const { points } = map.view;
  const n = points.length / 2;
  const radius = n > 4000 ? 2 : n > 800 ? 2.8 : 4;
  const stamps = drawStamps(map, radius);
  const size = stamps.size;
  clip(map, pen, () => {
    const passes = map.chosen.size ? [false, true] : [true]; // what was chosen lies above the rest
    for (const pass of passes) {
      pen.globalAlpha = pass ? (map.plane ? 0.45 : n > 4000 ? 0.75 : 0.9) : 0.12;
      for (let row = 0; row < n; row++) {
        const code = map.labels ? map.labels.codes[row] : 0;
        if (map.chosen.size && map.chosen.has(code) !== pass) continue;
        const [x, y] = map.toScreen([points[2 * row], points[2 * row + 1]]);
        pen.drawImage(stamps[code], x - size / 2, y - size / 2, size, size);
      }
    }
    pen.globalAlpha = 1;
    if (map.labels && !map.view.flat && map.labels.names.length <= 20) drawNames(map, pen);
  });
}

// A point of each colour, drawn once; a rim keeps light ones visible.
function drawStamps(map, radius) {
  const ratio = window.devicePixelRatio || 1;
  const size = 2 * radius + 2;
  const colours = map.colours ?? [css("--accent")];
  const made = colours.map((colour) => {
    const stamp = document.createElement("canvas");
    stamp.width = stamp.height = Math.ceil(size * ratio);
    const pen = stamp.getContext("2d");
    pen.scale(ratio, ratio);
    pen.beginPath();
    pen.arc(size / 2, size / 2, radius, 0, 2 * Math.PI);
    pen.fillStyle = colour;
    pen.fill();
    pen.lineWidth = 0.6;
    pen.strokeStyle = css("--rim");
    pen.stroke();
    return stamp;
  });
  return Object.assign(made, { size });
}

// Each label's name above the median of its rows, so that nobody depends on colours.
function drawNames(map, pen) {
  const { points } = map.view;
  const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
  pen.font = `700 15px ${css("--sans")}`;
  pen.textAlign = "center";
  pen.lineWidth = 4;
  pen.lineJoin = "round";
  map.labels.names.forEach((name, code) => {
    if (map.chosen.size && !map.chosen.has(code)) return;
    const rows = map.labels.codes.map((c, row) => (c === code ? row : -1)).filter((row) => row >= 0);
    const at = map.toScreen([0, 1].map((d) => middle(rows.map((row) => points[2 * row + d]))));
    pen.strokeStyle = css("--card");
    pen.fillStyle = css("--ink");
    pen.strokeText(name, at[0], at[1] - 12);
    pen.fillText(name, at[0], at[1] - 12);
  });
}

export function drawMarks(map) {
  const pen = map.over.getContext("2d");
  pen.clearRect(0, 0, map.width, map.height);
  const { point, start, end, path, nearest } = map.marks;
  if (!point) return;
  const ink = css("--ink");
  clip(map, pen, () => {
    pen.strokeStyle = ink;
    pen.lineWidth = 1.5;
    for (const row of nearest) {
      const [x, y] = map.toScreen([map.view.points[2 * row], map.view.points[2 * row + 1]]);
      ring(pen, x, y, 6);
    }
    if (!map.view.flat) drawPath(map, pen, path.map((z) => map.toScreen(map.view.toPlane(z))));
    for (const [name, z] of [["A", start], ["B", end]]) if (z) drawEnd(map, pen, name, z);
    drawPoint(map, pen, map.toScreen(map.view.toPlane(point)));
  });
}

function drawPath(map, pen, places) {
  if (!places.length) return;
  for (const [colour, width, dash] of [[css("--card"), 5, []], [css("--accent"), 2.5, [6, 4]]]) {
    pen.setLineDash(dash);
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.beginPath();
    places.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
    pen.stroke();
  }
  pen.setLineDash([]);
}

function drawEnd(map, pen, name, z) {
  const [x, y] = map.toScreen(map.view.toPlane(z));
  pen.beginPath();
  pen.arc(x, y, 10, 0, 2 * Math.PI);
  pen.fillStyle = css("--accent");
  pen.fill();
  pen.strokeStyle = css("--card");
  pen.lineWidth = 2;
  pen.stroke();
  pen.fillStyle = css("--on-accent");
  pen.font = `700 12px ${css("--sans")}`;
  pen.textAlign = "center";
  pen.fillText(name, x, y + 4.5);
}

function drawPoint(map, pen, [x, y]) {
  const ends = map.view.flat
    ? [[[x, MARGIN.top], [x, map.height - MARGIN.bottom]]]
    : [[[x - 22, y], [x - 8, y]], [[x + 8, y], [x + 22, y]], [[x, y - 22], [x, y - 8]], [[x, y + 8], [x, y + 22]]];
  for (const [colour, width] of [[css("--card"), 6], [css("--ink"), 2.5]]) {
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    for (const [from, to] of ends) stroke(pen, from, to);
    if (!map.view.flat) ring(pen, x, y, 8);
  }
}

function stroke(pen, from, to) {
  pen.beginPath();
  pen.moveTo(...from);
  pen.lineTo(...to);
  pen.stroke();
}

function ring(pen, x, y, radius) {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 2 * Math.PI);
  pen.stroke();
}

function clip(map, pen, draw) {
  pen.save();
  pen.beginPath();
  const { left, right, top, bottom } = MARGIN;
  pen.rect(left, top, map.width - left - right, map.height - top - bottom);
  pen.clip();
  draw();
  pen.restore();
}
