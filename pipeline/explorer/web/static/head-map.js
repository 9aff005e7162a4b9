// A region of a map is chosen by dragging over it: its edges go into the address.

/** @param {SVGSVGElement} map @param {PointerEvent} event */
function place(map, event) {
  const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(map.getScreenCTM()?.inverse());
  const side = map.viewBox.baseVal.width;
  return { x: Math.min(Math.max(at.x, 0), side), y: Math.min(Math.max(at.y, 0), side) };
}

/** @param {SVGSVGElement} map */
function listen(map) {
  const side = map.viewBox.baseVal.width;
  const [x0, x1, y0, y1] = ["x0", "x1", "y0", "y1"].map((edge) => Number(map.dataset[edge]));
  /** @type {{x: number, y: number} | null} */
  let start = null;
  const frame = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  frame.setAttribute("class", "frame");

  /** @param {{x: number, y: number}} a @param {{x: number, y: number}} b */
  const draw = (a, b) => {
    frame.setAttribute("x", String(Math.min(a.x, b.x)));
    frame.setAttribute("y", String(Math.min(a.y, b.y)));
    frame.setAttribute("width", String(Math.abs(a.x - b.x)));
    frame.setAttribute("height", String(Math.abs(a.y - b.y)));
  };
  map.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    start = place(map, event);
    map.setPointerCapture(event.pointerId);
    draw(start, start);
    map.append(frame);
  });
  map.addEventListener("pointermove", (event) => {
    if (start) draw(start, place(map, event));
  });
  map.addEventListener("pointercancel", () => {
    start = null;
    frame.remove();
  });
  map.addEventListener("pointerup", (event) => {
    if (!start) return;
    const a = start;
    const b = place(map, event);
    start = null;
    frame.remove();
    if (Math.abs(a.x - b.x) < 4 || Math.abs(a.y - b.y) < 4) return;
    /** @param {number} at */
    const across = (at) => x0 + (at / side) * (x1 - x0);
    /** @param {number} at */
    const up = (at) => y1 - (at / side) * (y1 - y0);
    const edges = {
      x0: across(Math.min(a.x, b.x)),
      x1: across(Math.max(a.x, b.x)),
      y0: up(Math.max(a.y, b.y)),
      y1: up(Math.min(a.y, b.y)),
    };
    const next = new URL(location.href);
    for (const [edge, value] of Object.entries(edges)) {
      next.searchParams.set(edge, value.toPrecision(6));
    }
    location.assign(next);
  });
}

for (const map of document.querySelectorAll("svg.map")) {
  if (map instanceof SVGSVGElement) listen(map);
}
for (const said of document.querySelectorAll("[data-needs-script]")) {
  said.removeAttribute("hidden");
}
