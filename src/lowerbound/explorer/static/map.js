// The map: rows as points on one canvas, what moves on another, and how pointer and keys move it.

import { nearestIn } from "./view.js";

const MARGIN = { left: 52, right: 14, top: 12, bottom: 40 };
const NEAR = 9; // pixels within which a click means a row
const TILE = 44; // pixels of an image of the plane
const MOST_COLUMNS = 20;
const STEP = 1 / 40; // of what is visible, for a key

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export function ticks(low, high, wanted) {
  const raw = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  for (let k = Math.ceil(low / step); k * step <= high; k++) found.push(Number((k * step).toPrecision(12)));
  return found;
}

export class LatentMap {
  // `labels` are {codes, names} or null; `acts` are the functions move, take, start, end, centre, and seen, which is
  // called when another part of the plane is shown.
  constructor(root, { labels, acts }) {
    this.root = root;
    this.labels = labels;
    this.acts = acts;
    this.tip = root.querySelector("#tip");
    [this.base, this.over] = ["#points", "#overlay"].map((id) => root.querySelector(id));
    this.chosen = new Set();
    this.plane = null; // what the plane decodes to: {items, columns, rows, box}
    this.marks = { point: null, start: null, end: null, path: [], nearest: [] };
    new ResizeObserver(() => this.resize()).observe(root);
    this.listen();
  }

  show(view) {
    this.view = view;
    this.fit();
  }

  // --- Where things are ---------------------------------------------------------------------------------------------

  fit() {
    const { points } = this.view;
    const bounds = [Infinity, -Infinity, Infinity, -Infinity];
    for (let i = 0; i < points.length; i += 2) {
      bounds[0] = Math.min(bounds[0], points[i]);
      bounds[1] = Math.max(bounds[1], points[i]);
      bounds[2] = Math.min(bounds[2], points[i + 1]);
      bounds[3] = Math.max(bounds[3], points[i + 1]);
    }
    const pad = (low, high) => Math.max(0.06 * (high - low), 0.1);
    const [px, py] = [pad(bounds[0], bounds[1]), pad(bounds[2], bounds[3])];
    this.box = [bounds[0] - px, bounds[1] + px, bounds[2] - py, bounds[3] + py];
    if (this.view.flat) this.box.splice(2, 2, -0.6, this.view.names.length - 0.4);
    this.changed();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.root;
    const ratio = window.devicePixelRatio || 1;
    for (const canvas of [this.base, this.over]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    [this.width, this.height] = [width, height];
    if (this.view) this.changed();
  }

  changed() {
    this.draw();
    this.acts.seen();
  }

  toScreen([x, y]) {
    const [left, right, bottom, top] = this.box;
    return [
      MARGIN.left + ((x - left) / (right - left)) * (this.width - MARGIN.left - MARGIN.right),
      this.height - MARGIN.bottom - ((y - bottom) / (top - bottom)) * (this.height - MARGIN.top - MARGIN.bottom),
    ];
  }

  toPlane([x, y]) {
    const [left, right, bottom, top] = this.box;
    return [
      left + ((x - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right)) * (right - left),
      bottom + ((this.height - MARGIN.bottom - y) / (this.height - MARGIN.top - MARGIN.bottom)) * (top - bottom),
    ];
  }

  zoom(factor, [x, y] = [(this.box[0] + this.box[1]) / 2, (this.box[2] + this.box[3]) / 2]) {
    const [left, right, bottom, top] = this.box;
    this.box = [x + (left - x) * factor, x + (right - x) * factor, bottom, top];
    if (!this.view.flat) this.box.splice(2, 2, y + (bottom - y) * factor, y + (top - y) * factor);
    this.changed();
  }

  pan(dx, dy) {
    this.box = [this.box[0] + dx, this.box[1] + dx, this.box[2] + dy, this.box[3] + dy];
    this.changed();
  }

  // Keep the point in sight when keys or sliders move it.
  follow() {
    const [x, y] = this.view.toPlane(this.marks.point);
    const [left, right, bottom, top] = this.box;
    const shift = (value, low, high) => (value < low ? value - low : value > high ? value - high : 0);
    const [dx, dy] = [shift(x, left, right), this.view.flat ? 0 : shift(y, bottom, top)];
    if (dx || dy) this.pan(dx * 1.2, dy * 1.2);
  }

  // --- Drawing ------------------------------------------------------------------------------------------------------

  draw() {
    if (!this.width) return;
    const pen = this.base.getContext("2d");
    const [ink, line] = [css("--soft"), css("--grid")];
    pen.clearRect(0, 0, this.width, this.height);
    pen.font = `12px ${css("--sans")}`;
    this.drawAxes(pen, ink, line);
    if (this.plane) this.clip(pen, () => this.drawPlane(pen));
    this.drawPoints(pen);
    this.drawMarks();
  }

  drawAxes(pen, ink, line) {
    const [left, right, bottom, top] = this.box;
    const [x0, y0] = [MARGIN.left, this.height - MARGIN.bottom];
    const text = (value) => String(value).replace("-", "−");
    pen.strokeStyle = line;
    pen.fillStyle = ink;
    pen.lineWidth = 1;
    pen.textAlign = "center";
    for (const value of ticks(left, right, this.width / 90)) {
      const x = Math.round(this.toScreen([value, 0])[0]) + 0.5;
      this.stroke(pen, [x, MARGIN.top], [x, y0]);
      pen.fillText(text(value), x, y0 + 16);
    }
    pen.textAlign = "right";
    const names = this.view.names?.map((name, k) => [k, name.slice(0, 7)]);
    for (const [value, name] of names ?? ticks(bottom, top, this.height / 70).map((v) => [v, text(v)])) {
      const y = Math.round(this.toScreen([0, value])[1]) + 0.5;
      if (!names) this.stroke(pen, [x0, y], [this.width - MARGIN.right, y]);
      pen.fillText(name, x0 - 8, y + 4);
    }
    pen.textAlign = "center";
    pen.font = `600 12px ${css("--sans")}`;
    pen.fillText(this.view.titles[0], (x0 + this.width - MARGIN.right) / 2, this.height - 6);
    pen.save();
    pen.translate(12, (MARGIN.top + y0) / 2);
    pen.rotate(-Math.PI / 2);
    pen.fillText(this.view.titles[1], 0, 0);
    pen.restore();
  }

  drawPlane(pen) {
    const { items, columns, rows, box } = this.plane;
    const corner = (i, j) =>
      this.toScreen([
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

  // Places for images of a shape, as many as fit, row by row from the top.
  places(shape) {
    const [left, right, bottom, top] = this.box;
    const [width, height] = [this.width - MARGIN.left - MARGIN.right, this.height - MARGIN.top - MARGIN.bottom];
    const ratio = shape.at(-1) / shape.at(-2);
    const columns = Math.max(1, Math.min(MOST_COLUMNS, Math.round(width / Math.max(TILE, TILE * ratio))));
    const rows = Math.max(1, Math.round((height / width) * columns * ratio));
    const found = [];
    for (let j = 0; j < rows; j++) {
      for (let i = 0; i < columns; i++) {
        found.push([left + ((i + 0.5) / columns) * (right - left), top - ((j + 0.5) / rows) * (top - bottom)]);
      }
    }
    return { found, columns, rows, box: [...this.box] };
  }

  drawPoints(pen) {
    const { points } = this.view;
    const n = points.length / 2;
    const radius = n > 4000 ? 2 : n > 800 ? 2.8 : 4;
    const stamps = this.stamps(radius);
    const size = stamps.size;
    this.clip(pen, () => {
      const passes = this.chosen.size ? [false, true] : [true]; // what was chosen lies above the rest
      for (const pass of passes) {
        pen.globalAlpha = pass ? (this.plane ? 0.45 : n > 4000 ? 0.75 : 0.9) : 0.12;
        for (let row = 0; row < n; row++) {
          const code = this.labels ? this.labels.codes[row] : 0;
          if (this.chosen.size && this.chosen.has(code) !== pass) continue;
          const [x, y] = this.toScreen([points[2 * row], points[2 * row + 1]]);
          pen.drawImage(stamps[code], x - size / 2, y - size / 2, size, size);
        }
      }
      pen.globalAlpha = 1;
      if (this.labels && !this.view.flat && this.labels.names.length <= 20) this.drawNames(pen);
    });
  }

  // A point of each colour, drawn once; a rim keeps light ones visible.
  stamps(radius) {
    const ratio = window.devicePixelRatio || 1;
    const size = 2 * radius + 2;
    const colours = this.colours ?? [css("--accent")];
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

  // Each label's name at the median of its rows, so that nobody depends on colours.
  drawNames(pen) {
    const { points } = this.view;
    const middle = (values) => values.sort((a, b) => a - b)[values.length >> 1];
    pen.font = `700 15px ${css("--sans")}`;
    pen.textAlign = "center";
    pen.lineWidth = 4;
    pen.lineJoin = "round";
    this.labels.names.forEach((name, code) => {
      if (this.chosen.size && !this.chosen.has(code)) return;
      const rows = this.labels.codes.map((c, row) => (c === code ? row : -1)).filter((row) => row >= 0);
      const at = this.toScreen([0, 1].map((d) => middle(rows.map((row) => points[2 * row + d]))));
      pen.strokeStyle = css("--card");
      pen.fillStyle = css("--ink");
      pen.strokeText(name, at[0], at[1] + 5);
      pen.fillText(name, at[0], at[1] + 5);
    });
  }

  drawMarks() {
    const pen = this.over.getContext("2d");
    pen.clearRect(0, 0, this.width, this.height);
    const { point, start, end, path, nearest } = this.marks;
    if (!point) return;
    const ink = css("--ink");
    this.clip(pen, () => {
      pen.strokeStyle = ink;
      pen.lineWidth = 1.5;
      for (const row of nearest) {
        const [x, y] = this.toScreen([this.view.points[2 * row], this.view.points[2 * row + 1]]);
        this.ring(pen, x, y, 6);
      }
      if (!this.view.flat) this.drawPath(pen, path.map((z) => this.toScreen(this.view.toPlane(z))));
      for (const [name, z] of [["A", start], ["B", end]]) if (z) this.drawEnd(pen, name, z);
      this.drawPoint(pen, this.toScreen(this.view.toPlane(point)));
    });
  }

  drawPath(pen, places) {
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

  drawEnd(pen, name, z) {
    const [x, y] = this.toScreen(this.view.toPlane(z));
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

  drawPoint(pen, [x, y]) {
    const ends = this.view.flat
      ? [[[x, MARGIN.top], [x, this.height - MARGIN.bottom]]]
      : [[[x - 22, y], [x - 8, y]], [[x + 8, y], [x + 22, y]], [[x, y - 22], [x, y - 8]], [[x, y + 8], [x, y + 22]]];
    for (const [colour, width] of [[css("--card"), 6], [css("--ink"), 2.5]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      for (const [from, to] of ends) this.stroke(pen, from, to);
      if (!this.view.flat) this.ring(pen, x, y, 8);
    }
  }

  stroke(pen, from, to) {
    pen.beginPath();
    pen.moveTo(...from);
    pen.lineTo(...to);
    pen.stroke();
  }

  ring(pen, x, y, radius) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    pen.stroke();
  }

  clip(pen, draw) {
    pen.save();
    pen.beginPath();
    const { left, right, top, bottom } = MARGIN;
    pen.rect(left, top, this.width - left - right, this.height - top - bottom);
    pen.clip();
    draw();
    pen.restore();
  }

  // --- Pointer and keys ---------------------------------------------------------------------------------------------

  listen() {
    const place = (event) => {
      const box = this.root.getBoundingClientRect();
      return [event.clientX - box.left - this.root.clientLeft, event.clientY - box.top - this.root.clientTop];
    };
    let from = null;
    let moved = false;
    this.root.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.root.setPointerCapture(event.pointerId);
      [from, moved] = [place(event), false];
      this.tip.hidden = true;
      if (!event.shiftKey) this.acts.move(this.toPlane(from));
    });
    this.root.addEventListener("pointermove", (event) => {
      const at = place(event);
      if (!from) {
        this.hover(at);
        return;
      }
      if (!moved && Math.hypot(at[0] - from[0], at[1] - from[1]) < 4) return;
      moved = true;
      if (event.shiftKey) {
        const [a, b] = [this.toPlane(from), this.toPlane(at)];
        this.pan(a[0] - b[0], this.view.flat ? 0 : a[1] - b[1]);
        from = at;
      } else {
        this.acts.move(this.toPlane(at));
      }
    });
    this.root.addEventListener("pointerup", (event) => {
      if (from && !moved && !event.shiftKey) {
        const row = this.rowAt(place(event));
        if (row !== null) this.acts.take(row);
      }
      from = null;
    });
    this.root.addEventListener("pointercancel", () => (from = null));
    this.root.addEventListener("pointerleave", () => (this.tip.hidden = true));
    this.root.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        this.zoom(Math.exp(Math.max(-0.3, Math.min(0.3, event.deltaY * 0.0015))), this.toPlane(place(event)));
      },
      { passive: false },
    );
    this.root.addEventListener("keydown", (event) => this.key(event));
  }

  rowAt(at) {
    const row = nearestIn(this.onScreen(), 2, at);
    const [x, y] = this.toScreen([this.view.points[2 * row], this.view.points[2 * row + 1]]);
    return Math.hypot(x - at[0], y - at[1]) <= NEAR ? row : null;
  }

  onScreen() {
    const { points } = this.view;
    const places = new Float32Array(points.length);
    for (let i = 0; i < points.length; i += 2) places.set(this.toScreen([points[i], points[i + 1]]), i);
    return places;
  }

  hover(at) {
    const row = this.rowAt(at);
    this.tip.hidden = row === null;
    if (row === null) return;
    const label = this.labels ? `: ${this.labels.names[this.labels.codes[row]]}` : "";
    this.tip.textContent = `row ${row}${label}`;
    const left = Math.min(at[0] + 14, this.width - this.tip.offsetWidth - 8);
    this.tip.style.transform = `translate(${left}px, ${Math.max(at[1] - 34, 4)}px)`;
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    const others = {
      Enter: () => this.acts.take(null),
      a: () => this.acts.start(),
      b: () => this.acts.end(),
      0: () => this.acts.centre(),
      "+": () => this.zoom(0.8, this.view.toPlane(this.marks.point)),
      "=": () => this.zoom(0.8, this.view.toPlane(this.marks.point)),
      "-": () => this.zoom(1.25, this.view.toPlane(this.marks.point)),
      Home: () => this.fit(),
    };
    const way = ways[event.key];
    const other = others[event.key] ?? others[event.key.toLowerCase()];
    if (!way && !other) return;
    event.preventDefault();
    if (other) {
      other();
      return;
    }
    const far = STEP * (event.shiftKey ? 5 : 1);
    const [x, y] = this.view.toPlane(this.marks.point);
    const [left, right, bottom, top] = this.box;
    this.acts.move([x + way[0] * far * (right - left), y + way[1] * far * (top - bottom)]);
    this.follow();
  }
}
