// A slider for every latent, those along which the rows vary most first.

import { element, number } from "./tiles.js";

export class Sliders {
  constructor(root, space, change) {
    const order = space.spans.map((_, d) => d);
    if (space.dims > 2) order.sort((a, b) => space.spreads[b] - space.spreads[a]);
    const most = Math.max(...space.spreads, 1e-9);
    this.inputs = new Array(space.dims);
    this.outputs = new Array(space.dims);
    const lines = order.map((d) => {
      const [low, high] = space.spans[d];
      const id = `latent-${d + 1}`;
      const input = element("input", {
        type: "range",
        id,
        min: low,
        max: high,
        step: (high - low) / 400,
        oninput: () => change(d, Number(input.value)),
      });
      const output = element("output", { for: id, "aria-live": "off" });
      const bar = element("i", { "aria-hidden": "true" });
      bar.style.width = `${(100 * space.spreads[d]) / most}%`;
      const varies = `the rows' standard deviation along it is ${number(space.spreads[d])}`;
      const name = element("label", { for: id, title: varies }, `z${d + 1}`, element("span", { class: "spread" }, bar));
      [this.inputs[d], this.outputs[d]] = [input, output];
      return element("div", { class: "slider" }, name, input, output);
    });
    root.replaceChildren(...lines);
  }

  show(z) {
    z.forEach((value, d) => {
      this.inputs[d].value = value;
      const text = number(value);
      if (this.outputs[d].textContent === text) return;
      this.outputs[d].textContent = text;
      this.inputs[d].setAttribute("aria-valuetext", text);
    });
  }
}
