// What can be seen of a page that is wrong with it: `audit(window)`.
const channels = text => {
  const numbers = text.match(/[\d.]+(e-?\d+)?/g)?.map(Number) ?? [0, 0, 0, 0];
  const [r, g, b] = text.startsWith("color(srgb") ? numbers.map(x => 255 * x) : numbers;
  return [r, g, b, text.startsWith("color(srgb") ? numbers[3] ?? 1 : numbers[3] ?? 1];
};
const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3]));
const light = rgb => {
  const [r, g, b] = rgb.map(x => x / 255).map(x => x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const ratio = (a, b) => {
  const [low, high] = [light(a), light(b)].sort((x, y) => x - y);
  return (high + 0.05) / (low + 0.05);
};
// What a text stands on: the grounds of all that it is in, and the last shape of a picture below it.
function ground(window, element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement)
    layers.unshift(channels(window.getComputedStyle(at).backgroundColor));
  const svg = element.closest("svg");
  if (svg) {
    const box = element.getBoundingClientRect();
    const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
    const below = [...svg.querySelectorAll("rect, circle")].filter(shape => {
      const its = shape.getBoundingClientRect();
      return shape.compareDocumentPosition(element) & 4
        && its.left <= x && x <= its.right && its.top <= y && y <= its.bottom;
    }).at(-1);
    if (below) {
      const its = window.getComputedStyle(below), [r, g, b, a] = channels(its.fill);
      layers.push([r, g, b, a * parseFloat(its.fillOpacity)]);
    }
  }
  return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
}
function scrolls(window, element) {
  for (let at = element; at; at = at.parentElement)
    if (["auto", "scroll"].includes(window.getComputedStyle(at).overflowX)) return true;
  return false;
}
function audit(window) {
  const document = window.document, found = {};
  const elements = [...document.body.querySelectorAll("*")];
  const short = e => e.textContent.trim().slice(0, 40) || e.outerHTML.slice(0, 60);
  found.wide = document.documentElement.scrollWidth > window.innerWidth;
  found.outside = elements.filter(e => !e.closest("svg") && !scrolls(window, e)
    && e.getBoundingClientRect().right > window.innerWidth + 1).map(short);
  found.dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  found.texts = 0; found.pale = []; found.tiny = [];
  for (const element of elements) {
    const own = [...element.childNodes].some(n => n.nodeType === 3 && n.data.trim());
    const style = window.getComputedStyle(element), box = element.getBoundingClientRect();
    if (!own || !box.width || style.visibility !== "visible") continue;
    found.texts += 1;
    const svg = element.closest("svg");
    const under = ground(window, element);
    const contrast = ratio(over(channels(svg ? style.fill : style.color), under), under);
    if (contrast < 4.5) found.pale.push([short(element), contrast]);
    const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    const size = scale * parseFloat(style.fontSize);
    if (size < 10.5) found.tiny.push([short(element), size]);
  }
  const ids = [...document.querySelectorAll("[id]")].map(e => e.id);
  found.twice = ids.filter((id, i) => ids.indexOf(id) < i);
  found.nowhere = [...document.querySelectorAll("a[href^='#']")].map(a => a.hash.slice(1))
    .filter(name => !document.getElementById(name));
  found.levels = [...document.querySelectorAll("h1, h2, h3")].map(h => Number(h.tagName[1]));
  found.unsaid = [...document.querySelectorAll("img:not([alt]), svg:not([aria-label], [aria-hidden=true])")]
    .map(short);
  found.unnamed = [...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a")]
    .filter(e => ![e.textContent, e.ariaLabel, e.title, e.value && e.type === "submit" ? e.value : "",
      ...[...(e.labels ?? [])].map(l => l.textContent),
      ...[...e.querySelectorAll("img, svg")].map(i => i.alt ?? i.ariaLabel)].some(t => t?.trim())
      || (e.matches("select, textarea") && !e.labels.length && !e.ariaLabel))
    .map(e => e.outerHTML.slice(0, 80));
  found.asked = window.performance.getEntriesByType("resource").map(e => e.name);
  // Not read, or squeezed to nothing.
  found.broken = [...document.images]
    .filter(i => !i.naturalWidth || i.checkVisibility() && i.clientWidth < 8).map(i => i.alt);
  return found;
}
