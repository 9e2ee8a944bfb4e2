// The map: which part of the plane is shown, and how pointer and keys move the point in it.

import { MARGIN, drawBase, drawMarks } from "./draw.js";
import { nearestIn } from "./view.js";

const NEAR = 9; // pixels within which a click means a row
const TILE = 44; // pixels of an image of the plane
const MOST_COLUMNS = 20;
const STEP = 1 / 40; // of what is visible, for a key

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

  // --- Drawing ------------------------------------------------------------------------------------------------------

  draw() {
    if (!this.width) return;
    drawBase(this);
    drawMarks(this);
  }

  drawMarks() {
    drawMarks(this);
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
