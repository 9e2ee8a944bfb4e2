// A picture of the user's: dropped anywhere on the page, or chosen.

import { Trouble, encode } from "./api.js";
import { fill } from "./tiles.js";

const $ = (id) => document.getElementById(id);
const TITLES = ["as the model sees it", "reconstruction"];

// Calls `found` with the latents of each picture.
export class Picture {
  constructor(space, found) {
    Object.assign(this, { space, found });
    this.file = null;
    this.listen();
  }

  listen() {
    let depth = 0; // of elements that a file is dragged over
    const files = (event) => event.dataTransfer?.types.includes("Files");
    const cover = (change) => {
      depth = Math.max(0, depth + change);
      $("drop").hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      cover(1);
    });
    addEventListener("dragleave", (event) => files(event) && cover(-1));
    addEventListener("dragover", (event) => files(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!files(event)) return;
      event.preventDefault();
      cover(-depth);
      this.take(event.dataTransfer.files[0]);
    });
    $("file").addEventListener("change", () => this.take($("file").files[0]));
    $("invert").addEventListener("change", () => this.take(this.file));
  }

  async take(file) {
    if (!file) return;
    this.file = file;
    try {
      const most = this.space.mostBytes;
      if (file.size > most) throw new Trouble(`${file.name} has more than ${most / 1e6} MB.`);
      const { z, items } = await encode(file, $("invert").checked);
      const entries = items.map((item, k) => ({ item, title: TITLES[k], name: `Your picture, ${TITLES[k]}` }));
      fill($("picture"), entries, this.space);
      $("picture-trouble").hidden = true;
      $("picture-card").scrollIntoView({ block: "nearest" });
      this.found(z);
    } catch (error) {
      $("picture-trouble").textContent = error.message;
      $("picture-trouble").hidden = false;
    }
  }
}
