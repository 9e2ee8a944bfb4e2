// How rows are shown: images as tiles, the rest as tables of their columns.

const MOST_LEVELS = 6;

export const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== undefined && value !== null) made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
};

export function number(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  const text =
    size >= 10_000
      ? Math.round(value).toLocaleString("en")
      : size >= 100
        ? value.toFixed(0)
        : size >= 10
          ? value.toFixed(1)
          : value.toFixed(2);
  return text.replace(/^-(?=0(\.0+)?$)/, "").replace("-", "−");
}

function word(cell, column) {
  if (cell === null) return "–";
  if (cell.level !== undefined) return column.levels[cell.level] ?? cell.level;
  const whole = Number.isInteger(cell.value) && cell.spread === null && Math.abs(cell.value) < 10_000;
  return whole ? String(cell.value).replace("-", "−") : number(cell.value);
}

function picture(item, label) {
  const canvas = element("canvas", { width: item.width, height: item.height, role: "img", "aria-label": label });
  canvas.getContext("2d").drawImage(item.bitmap, item.left, 0, item.width, item.height, 0, 0, item.width, item.height);
  return canvas;
}

// Fill a place with items, each a button: `entries` are {item, title, name, mark, choose}. The focus stays where it was.
export function fill(place, entries, space) {
  const focus = [...place.querySelectorAll("button")].indexOf(document.activeElement);
  place.replaceChildren(...(space.pictures ? entries.map(tile) : [table(entries, space.columns, titleOf(place))]));
  if (focus >= 0) place.querySelectorAll("button")[focus]?.focus();
}

function dot(colour) {
  if (!colour) return null;
  const made = element("i", { class: "dot" });
  made.style.background = colour;
  return made;
}

function tile({ item, title, name, mark, choose }) {
  const content = [picture(item, name), element("span", { class: "caption" }, dot(mark), title)];
  return choose
    ? element("button", { type: "button", class: "tile", "aria-label": name, onclick: choose }, ...content)
    : element("div", { class: "tile" }, ...content);
}

const titleOf = (place) => place.closest("section").querySelector("h2").textContent;

function table(entries, columns, title) {
  const head = entries.map(({ title, name, mark, choose }) => {
    const button = { type: "button", class: "plain", "aria-label": name, onclick: choose };
    return element("th", { scope: "col" }, element("button", button, dot(mark), title));
  });
  const lines = columns.map((column, i) => {
    const cells = entries.map(({ item }) => element("td", {}, word(item[i], column)));
    return element("tr", {}, element("th", { scope: "row" }, column.name), ...cells);
  });
  const made = element(
    "table",
    {},
    element("thead", {}, element("tr", {}, element("td"), ...head)),
    element("tbody", {}, ...lines),
  );
  return element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${title}, a table` }, made);
}

// Show what the point decodes to, large.
export function large(place, item, space) {
  if (space.pictures) {
    let canvas = place.querySelector("canvas");
    if (!canvas) {
      canvas = element("canvas", { width: item.width, height: item.height, role: "img", "aria-label": "The decoded mean" });
      place.replaceChildren(canvas);
    }
    canvas.getContext("2d").drawImage(item.bitmap, item.left, 0, item.width, item.height, 0, 0, item.width, item.height);
    return;
  }
  const lines = space.columns.map((column, i) => {
    const cell = item[i];
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, column.name),
      element("td", { class: "value" }, word(cell, column), spread(cell)),
      element("td", { class: "chart" }, cell?.shares ? shares(cell, column) : range(cell, column)),
    );
  });
  const more = space.hidden ? element("p", { class: "soft" }, `and ${space.hidden} more columns`) : null;
  const table = element("table", { class: "decoded" }, element("tbody", {}, ...lines));
  const top = place.querySelector(".scroll")?.scrollTop ?? 0;
  const scroll = place.querySelector(".scroll") ?? element("div", { class: "scroll", tabindex: "0", role: "region" });
  scroll.setAttribute("aria-label", "The decoded columns");
  scroll.replaceChildren(table);
  if (!scroll.parentNode) place.replaceChildren(scroll, ...(more ? [more] : []));
  scroll.scrollTop = top;
}

const spread = (cell) =>
  cell?.spread ? element("span", { class: "soft" }, ` ± ${number(cell.spread)}`) : null;

// Where a number lies within the range of the data.
function range(cell, column) {
  const bar = element("div", { class: "range", "aria-hidden": "true" });
  if (!cell || column.low === null || !(column.high > column.low)) return bar;
  const at = (value) => 100 * Math.min(1, Math.max(0, (value - column.low) / (column.high - column.low)));
  if (cell.spread) {
    const band = element("i", { class: "band" });
    const [from, to] = [at(cell.value - cell.spread), at(cell.value + cell.spread)];
    band.style.left = `${from}%`;
    band.style.width = `${to - from}%`;
    bar.append(band);
  }
  const mark = element("i", { class: "mark" });
  mark.style.left = `${at(cell.value)}%`;
  bar.append(mark);
  return bar;
}

// The probability of each level; of many levels, that of the likeliest.
function shares(cell, column) {
  let shown = cell.shares.map((share, k) => ({ share, name: column.levels[k], likely: k === cell.level }));
  if (shown.length > MOST_LEVELS) {
    shown = shown.sort((a, b) => b.share - a.share).slice(0, MOST_LEVELS - 1);
    const rest = 1 - shown.reduce((sum, { share }) => sum + share, 0);
    shown.push({ share: Math.max(rest, 0), name: `${cell.shares.length - shown.length} others` });
  }
  const lines = shown.map(({ share, name, likely }) => {
    const bar = element("i", { "aria-hidden": "true" });
    bar.style.width = `${100 * share}%`;
    const text = `${name} ${Math.round(100 * share)} %`;
    return element("span", { title: text, class: likely ? "likely" : "" }, bar, element("b", {}, text));
  });
  return element("div", { class: "shares" }, ...lines);
}
