// Returns what is wrong: text with a contrast below 4.5, controls without a name or too low for a finger, ids that are
// there twice or lead nowhere, pictures without words, and a page that is wider than its window.
() => {
  const found = [];
  const parse = (text) => (text.match(/[\d.]+/g) ?? []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (; node; node = node.parentElement) {
      const colour = parse(getComputedStyle(node).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour;
    }
    return [255, 255, 255];
  };
  for (const node of document.querySelectorAll('body *')) {
    const box = node.getBoundingClientRect();
    if (!box.width || !box.height || getComputedStyle(node).visibility === 'hidden') continue;
    if ([...node.childNodes].some((child) => child.nodeType === 3 && child.textContent.trim()) && box.width > 1) {
      const pair = [light(parse(getComputedStyle(node).color)), light(ground(node))].sort((a, b) => b - a);
      const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
      if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(1)}: ${node.outerHTML.slice(0, 80)}`);
    }
    if (node.matches('button, input, select, [tabindex="0"]')) {
      const name = node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
      if (!name) found.push(`no name: ${node.outerHTML.slice(0, 80)}`);
      if (box.height < 24 && !node.matches('#file, [type=checkbox], [type=range]')) found.push(`small: ${node.outerHTML.slice(0, 80)}`);
    }
    if (node.matches('canvas') && !node.closest('[aria-hidden=true]') && !node.getAttribute('aria-label')) found.push('canvas');
  }
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  if (new Set(ids).size !== ids.length) found.push('an id twice');
  for (const at of ['aria-labelledby', 'aria-describedby', 'for'])
    for (const node of document.querySelectorAll(`[${at}]`))
      if (!document.getElementById(node.getAttribute(at))) found.push(`${at} leads nowhere`);
  if (document.documentElement.scrollWidth > innerWidth) found.push('wider than the window');
  return found;
}
