// What a browser makes of the pages in this file's frames; written into the element `out`.
const channels = text => {
  const numbers = text.match(/[\d.]+(e-?\d+)?/g).map(Number);
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
function ground(window, element) {
  const layers = [];
  for (let at = element; at; at = at.parentElement)
    layers.unshift(channels(window.getComputedStyle(at).backgroundColor));
  return layers.reduce((below, top) => over(top, below), [255, 255, 255]);
}
function scrolls(window, element) {
  for (let at = element; at; at = at.parentElement)
    if (["auto", "scroll"].includes(window.getComputedStyle(at).overflowX)) return true;
  return false;
}
function audit(frame) {
  const window = frame.contentWindow, document = frame.contentDocument, found = {};
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
  found.unsaid = [...document.querySelectorAll("img:not([alt]), svg:not([aria-label])")].map(short);
  found.asked = window.performance.getEntriesByType("resource").map(e => e.name);
  found.broken = [...document.images].filter(i => !i.naturalWidth).map(i => i.alt);
  return found;
}
onload = () => {
  const found = [...document.querySelectorAll("iframe")].map(audit);
  document.getElementById("out").textContent = JSON.stringify(found);
};
