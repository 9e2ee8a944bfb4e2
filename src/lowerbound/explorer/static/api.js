// What the server can be asked. Images come as one PNG, side by side, and are cut into tiles here.

export class Trouble extends Error {}

async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(`/api/${path}`, options);
  } catch {
    throw new Trouble("The server does not answer. Start it again with `lowerbound explore`.");
  }
  if (response.ok) return response;
  if (response.status === 401) throw new Trouble("The server was started anew. Open the address that it has printed.");
  let message = response.statusText;
  try {
    message = (await response.json()).error;
  } catch {
    // no more to say than the status
  }
  throw new Trouble(message);
}

const post = (path, question) =>
  ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(question) });

const floats = async (path) => new Float32Array(await (await ask(path)).arrayBuffer());

export const space = async () => (await ask("space")).json();
export const latents = () => floats("latents");
export const umap = () => floats("map");
export const nearest = async (z, k) => (await post("nearest", { z: [...z], k })).json();
export const sample = async (n, seed) => (await (await post("sample", { n, seed })).json()).z;
export const decode = async (zs) => items(await post("decode", { z: zs.map((z) => [...z]) }), zs.length);
export const rows = async (indices) => items(await post("rows", { rows: indices }), indices.length);

export async function encode(file, invert) {
  const response = await ask(`encode?invert=${invert ? 1 : 0}`, { method: "POST", body: file });
  const z = JSON.parse(response.headers.get("Latents"));
  return { z, items: await items(response, 2) };
}

// Return one item for each row: {bitmap, left, width, height}, or the cells of a table.
async function items(response, n) {
  const took = /dur=([\d.]+)/.exec(response.headers.get("Server-Timing") ?? "")?.[1];
  let found;
  if (response.headers.get("Content-Type").startsWith("image/")) {
    const bitmap = await createImageBitmap(await response.blob());
    const width = bitmap.width / n;
    found = Array.from({ length: n }, (_, i) => ({ bitmap, left: i * width, width, height: bitmap.height }));
  } else {
    found = (await response.json()).rows;
  }
  found.took = Number(took);
  return found;
}

// Runs one job at a time: while one is under way, only the last that was asked for is remembered.
export class Latest {
  constructor(trouble) {
    this.trouble = trouble;
    this.waiting = null;
    this.busy = false;
  }

  async run(job) {
    this.waiting = job;
    if (this.busy) return;
    this.busy = true;
    while (this.waiting) {
      const next = this.waiting;
      this.waiting = null;
      try {
        await next();
      } catch (error) {
        this.trouble(error);
      }
    }
    this.busy = false;
  }
}
