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

// Return a function that shows in a place, large, what the point decodes to.
export function large(place, space) {
  return space.pictures ? largePicture(place, space.shape) : largeTable(place, space);
}

function largePicture(place, shape) {
  const [height, width] = shape.slice(-2);
  const canvas = element("canvas", { width, height, role: "img", "aria-label": "The decoded mean" });
  place.replaceChildren(canvas);
  const pen = canvas.getContext("2d");
  return ({ bitmap, left }) => pen.drawImage(bitmap, left, 0, width, height, 0, 0, width, height);
}

function largeTable(place, { columns, hidden }) {
  const shows = [];
  const lines = columns.map((column) => {
    const [value, spread] = [element("span"), element("span", { class: "soft" })];
    const [chart, draw] = column.levels.length ? shares(column) : range(column);
    shows.push((cell) => {
      value.textContent = word(cell, column);
      spread.textContent = cell?.spread ? ` ± ${number(cell.spread)}` : "";
      draw(cell);
    });
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, column.name),
      element("td", { class: "value" }, value, spread),
      element("td", { class: "chart" }, chart),
    );
  });
  const table = element("table", { class: "decoded" }, element("tbody", {}, ...lines));
  const scroll = { class: "scroll", tabindex: "0", role: "region", "aria-label": "The decoded columns" };
  const more = hidden ? [element("p", { class: "soft" }, `and ${hidden} more columns`)] : [];
  place.replaceChildren(element("div", scroll, table), ...more);
  return (item) => shows.forEach((show, i) => show(item[i]));
}

// Where a number lies within the range of the data.
function range({ low, high }) {
  const [band, mark] = [element("i", { class: "band" }), element("i", { class: "mark" })];
  const bar = element("div", { class: "range", "aria-hidden": "true" }, band, mark);
  const at = (value) => 100 * Math.min(1, Math.max(0, (value - low) / (high - low)));
  const draw = (cell) => {
    const known = low !== null && high > low && Number.isFinite(cell?.value);
    bar.style.visibility = known ? "visible" : "hidden";
    if (!known) return;
    const [from, to] = [at(cell.value - (cell.spread ?? 0)), at(cell.value + (cell.spread ?? 0))];
    band.style.left = `${from}%`;
    band.style.width = `${to - from}%`;
    mark.style.left = `${at(cell.value)}%`;
  };
  return [bar, draw];
}

// The probability of each level; of many levels, that of the likeliest.
function shares({ levels }) {
  const bars = levels.slice(0, MOST_LEVELS).map(() => [element("i", { "aria-hidden": "true" }), element("b")]);
  const lines = bars.map((bar) => element("span", {}, ...bar));
  const draw = (cell) => {
    if (!cell?.shares) return;
    likeliest(cell.shares, levels).forEach(([name, share], k) => {
      const [bar, text] = bars[k];
      bar.style.width = `${100 * share}%`;
      text.textContent = lines[k].title = `${name} ${Math.round(100 * share)} %`;
      lines[k].className = name === levels[cell.level] ? "likely" : "";
    });
  };
  return [element("div", { class: "shares" }, ...lines), draw];
}

function likeliest(shares, levels) {
  const all = shares.map((share, k) => [levels[k], share]);
  if (all.length <= MOST_LEVELS) return all;
  const first = all.sort((a, b) => b[1] - a[1]).slice(0, MOST_LEVELS - 1);
  const rest = 1 - first.reduce((sum, [, share]) => sum + share, 0);
  return [...first, [`${all.length - first.length} others`, Math.max(rest, 0)]];
}
