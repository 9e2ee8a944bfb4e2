// The page: what the point is, and everything that follows when it moves.

import * as api from "./api.js";
import { dark, legend, themes, tint } from "./choices.js";
import { LatentMap } from "./map.js";
import { Picture } from "./picture.js";
import { Sliders } from "./sliders.js";
import { element, fill, large, number } from "./tiles.js";
import * as views from "./view.js";

const STEPS = 11;
const NEIGHBOURS = 11;
const SAMPLES = 22;
const MOST = 64; // vectors in one question
const REST = 90; // milliseconds after which the point is taken to rest

const $ = (id) => document.getElementById(id);

const trouble = (error) => {
  $("trouble").textContent = error instanceof api.Trouble ? error.message : `Something went wrong: ${error}`;
  $("trouble").hidden = false;
};
const well = () => ($("trouble").hidden = true);

async function start() {
  const [space, means] = await Promise.all([api.space(), api.latents()]);
  const page = new Page(space, means);
  await page.begin();
}

class Page {
  constructor(space, means) {
    Object.assign(this, { space, means });
    this.labels = space.labels ?? null;
    this.queues = Object.fromEntries(["decode", "nearest", "path", "sample", "plane"].map((n) => [n, new api.Latest(trouble)]));
    this.seed = 0;
    this.map = new LatentMap($("map"), {
      labels: this.labels,
      acts: {
        move: (place) => this.go(this.map.view.move(this.z, place)),
        take: (row) => this.go(this.row(row ?? views.nearestIn(this.means, space.dims, this.z))),
        start: () => this.ends(this.z, null),
        end: () => this.ends(null, this.z),
        centre: () => this.go(this.centre),
        seen: () => this.decodePlane(),
      },
    });
    this.sliders = new Sliders($("sliders"), space, (d, value) => this.go(this.z.map((old, k) => (k === d ? value : old))));
    this.centre = space.binary ? space.spans.map(() => 0.5) : space.spans.map(() => 0);
  }

  async begin() {
    const { space } = this;
    $("run").textContent = space.name;
    document.title = `${space.name}: latent explorer`;
    const rows = `${space.n.toLocaleString("en")} rows of ${space.data}`;
    const split = ["test", "validation", "train"].includes(space.split) ? `${space.split}, ` : "";
    $("facts").textContent = `${space.model} · ${space.dims} latent${space.dims > 1 ? "s" : ""} · ${split}${rows}`;
    $("latents-note").textContent = space.dims > 2 ? "most varied first" : "";
    $("picture-card").hidden = !space.pictures;
    legend(this.labels, this.map.chosen, () => this.map.draw());
    this.selects();
    this.buttons();
    if (space.pictures) {
      new Picture(space, (z) => {
        this.go(z);
        this.map.follow();
      });
    }
    this.z = this.row(0);
    await this.see();
    this.ends(...this.farApart());
    this.go(this.z);
    this.draw();
  }

  // Rows to begin a path with: those nearest to the means of the two labels that lie farthest apart.
  farApart() {
    if (!this.labels || this.labels.names.length < 2) return [this.row(0), this.row(this.space.n - 1)];
    const { codes, names } = this.labels;
    const sums = names.map(() => ({ n: 0, z: this.centre.map(() => 0) }));
    codes.forEach((code, row) => {
      sums[code].n += 1;
      this.row(row).forEach((value, d) => (sums[code].z[d] += value));
    });
    const means = sums.map(({ n, z }) => z.map((value) => value / n));
    let [most, pair] = [-1, [0, 1]];
    means.forEach((a, i) =>
      means.slice(0, i).forEach((b, j) => {
        const distance = Math.hypot(...a.map((value, d) => value - b[d]));
        if (distance > most) [most, pair] = [distance, [j, i]];
      }),
    );
    return pair.map((code) => this.row(views.nearestIn(this.means, this.space.dims, means[code])));
  }

  row(index) {
    return views.rowOf(this.means, this.space.dims, index);
  }

  label(row) {
    return this.labels ? this.labels.names[this.labels.codes[row]] : null;
  }

  // --- The point and what follows it --------------------------------------------------------------------------------

  go(z) {
    this.z = z;
    this.map.marks.point = z;
    this.map.drawMarks();
    this.sliders.show(z);
    this.queues.decode.run(async () => {
      const before = performance.now();
      const items = await api.decode([this.z]);
      const first = !this.show; // while the page is built, everything takes longer
      this.show ??= large($("decoded"), this.space);
      this.show(items[0]);
      if (!first) $("speed").textContent = `${(performance.now() - before).toFixed(0)} ms`;
      $("speed").title = `of which ${items.took.toFixed(1)} ms are the model's`;
      well();
    });
    clearTimeout(this.rest);
    this.rest = setTimeout(() => this.settle(), REST);
    if (this.space.dims > 2) this.decodePlane(); // another plane, if the point has left this one
  }

  // When the point rests: its neighbours, and what a screen reader says.
  settle() {
    this.queues.nearest.run(async () => {
      const { rows, distances } = await api.nearest(this.z, NEIGHBOURS);
      const items = await api.rows(rows);
      this.map.marks.nearest = rows;
      this.map.drawMarks();
      const entries = rows.map((row, k) => ({
        item: items[k],
        title: this.label(row) ?? `row ${row}`,
        mark: this.labels ? this.map.colours[this.labels.codes[row]] : null,
        name: `Row ${row}${this.labels ? `, label ${this.label(row)}` : ""}, at distance ${number(distances[k])}`,
        choose: () => this.go(this.row(row)),
      }));
      fill($("nearest"), entries, this.space);
      const place = this.map.view.toPlane(this.z).slice(0, this.map.view.flat ? 1 : 2).map(number);
      const near = `nearest: row ${rows[0]}${this.labels ? `, label ${this.label(rows[0])}` : ""}`;
      $("where").textContent = `at ${place.join(", ")} · ${near}, ${number(distances[0])} away`;
      $("live").textContent = `Point at ${place.join(", ")}; ${near}.`;
    });
  }

  ends(start, end) {
    this.map.marks.start = start ?? this.map.marks.start;
    this.map.marks.end = end ?? this.map.marks.end;
    const [a, b] = [this.map.marks.start, this.map.marks.end];
    const between = (t) => a.map((value, d) => value + t * (b[d] - value));
    const path = Array.from({ length: STEPS }, (_, k) => between(k / (STEPS - 1)));
    this.map.marks.path = path;
    this.map.drawMarks();
    this.queues.path.run(async () => {
      const items = await api.decode(path);
      const entries = path.map((z, k) => ({
        item: items[k],
        title: k === 0 ? "A" : k === STEPS - 1 ? "B" : `${Math.round((100 * k) / (STEPS - 1))} %`,
        name: `Step ${k + 1} of ${STEPS} from A to B`,
        choose: () => this.go(z),
      }));
      fill($("path"), entries, this.space);
    });
  }

  draw() {
    this.queues.sample.run(async () => {
      const n = this.space.pictures ? SAMPLES : STEPS;
      const zs = await api.sample(n, this.seed);
      const items = await api.decode(zs);
      $("seed").textContent = `means of p(x | z), seed ${this.seed}`;
      const entries = zs.map((z, k) => ({
        item: items[k],
        title: `${k + 1}`,
        name: `Sample ${k + 1}`,
        choose: () => this.go(z),
      }));
      fill($("samples"), entries, this.space);
    });
  }

  // Decode places all over the plane that is shown, once it rests.
  decodePlane() {
    clearTimeout(this.restOfPlane);
    if ($("plane-label").hidden || !$("plane").checked) {
      if (this.map.plane) {
        this.map.plane = null;
        this.map.draw();
      }
      return;
    }
    const ask = async () => {
      const { view } = this.map;
      const { found, ...plane } = this.map.places(this.space.shape);
      const zs = found.map((place) => view.move(this.z, place));
      const parts = [];
      for (let k = 0; k < zs.length; k += MOST) parts.push(await api.decode(zs.slice(k, k + MOST)));
      if (view !== this.map.view || !$("plane").checked) return;
      this.map.plane = { ...plane, items: parts.flat() };
      this.map.draw();
    };
    this.restOfPlane = setTimeout(() => this.queues.plane.run(ask), REST);
  }

  // --- What can be chosen -------------------------------------------------------------------------------------------

  selects() {
    const { space } = this;
    const options = [];
    if (space.dims > 1) options.push(["axes", "Two latents"], ["principal", "Principal axes"]);
    if (space.dims === 1) options.push(["line", "One latent"]);
    if (space.map) options.push(["map", "UMAP"]);
    $("view").replaceChildren(...options.map(([value, text]) => element("option", { value }, text)));
    $("view").value = space.dims > 2 ? "principal" : options[0][0];
    const order = space.spreads.map((_, d) => d).sort((a, b) => space.spreads[b] - space.spreads[a]);
    const [first, second] = space.dims === 2 ? [0, 1] : order;
    for (const [id, d] of [["across", first], ["up", second]]) {
      $(id).replaceChildren(...space.spans.map((_, k) => element("option", { value: k }, `z${k + 1}`)));
      $(id).value = d ?? 0;
    }
    for (const [id, other] of [["across", "up"], ["up", "across"]]) {
      $(id).addEventListener("change", () => {
        if ($(id).value === $(other).value) $(other).value = this.shown[id]; // the two change places
        this.see().catch(trouble);
      });
    }
    $("view").addEventListener("change", () => this.see().catch(trouble));
  }

  async see() {
    const { space, means } = this;
    const kind = $("view").value;
    this.shown = { across: $("across").value, up: $("up").value };
    for (const label of document.querySelectorAll(".axis")) label.hidden = kind !== "axes" || space.dims === 2;
    let view;
    if (kind === "axes") view = views.axes(means, space.dims, Number($("across").value), Number($("up").value));
    else if (kind === "principal") view = views.principal(means, space.dims, space.principal);
    else if (kind === "line") view = views.line(means, this.labels?.codes, this.labels?.names);
    else {
      $("map-help").textContent = "Computing the map, which takes a while …";
      view = views.embedded(await api.umap(), means, space.dims);
      if ($("view").value !== kind) return; // another was chosen meanwhile
    }
    $("map-help").textContent = view.snaps
      ? "This map has no way back, so the point is always a row."
      : "Drag the point, or move it with the arrow keys. A click on a row takes its latents.";
    $("plane-label").hidden = !space.pictures || Boolean(view.flat || view.snaps);
    this.map.plane = null;
    this.map.marks.point = this.z;
    this.map.show(view);
  }

  // Colours of labels depend on the theme.
  colour() {
    this.map.colours = this.labels?.[dark() ? "dark" : "light"];
    tint(this.map.colours);
    if (!this.map.view) return;
    this.map.draw();
    this.settle();
  }

  buttons() {
    themes(() => this.colour());
    const acts = {
      keys: () => $("help").showModal(),
      "set-start": () => this.ends(this.z, null),
      "set-end": () => this.ends(null, this.z),
      swap: () => this.ends(this.map.marks.end, this.map.marks.start),
      centre: () => this.go(this.centre),
      "zoom-in": () => this.map.zoom(0.7),
      "zoom-out": () => this.map.zoom(1 / 0.7),
      "zoom-all": () => this.map.fit(),
      draw: () => {
        this.seed += 1;
        this.draw();
      },
    };
    for (const [id, act] of Object.entries(acts)) $(id).addEventListener("click", act);
    $("plane").addEventListener("change", () => this.decodePlane());
  }
}

start().catch(trouble);
