// Gains moved by sliders. The page has a table of every image's logits and of what each part takes
// from them where it is put at its mean, and so computes with any gains what the server would.

/** @typedef {{n: number, right: number, share: number, low: number, high: number}} Rate */
/** @typedef {{name: string, rate: Rate, few: boolean}} Group */
/**
 * @typedef {object} View what the server says of this page
 * @property {number} images
 * @property {string[]} classes
 * @property {string[]} groups
 * @property {string[]} parts
 * @property {number} layers
 * @property {number} heads
 * @property {Record<string, number[]>} properties
 * @property {number[]} gains_s
 * @property {{whole: Rate, by_class: Group[], by_group: Group[], worst: number}} before
 * @property {{index: number, truth: number}} picked
 */
/** @typedef {{base: Float32Array, scores: Float32Array, truth: Int32Array, groups: Int32Array, numbers: Int32Array}} Table */
/** @typedef {{input: HTMLInputElement, said: HTMLElement, parts: number[]}} Slider */

const SHOWN = 24;
const Z = 1.959963984540054; // of 95%

/** @param {string} id @returns {HTMLElement} */
function place(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`the page has no ${id}`);
  return found;
}

/** @param {string} name @param {Record<string, string>} attributes @param {(Node | string)[]} inside */
function made(name, attributes, ...inside) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...inside);
  return element;
}

/** Wilson's interval (1927). @param {number} n @param {number} right @returns {Rate} */
function rate(n, right) {
  const share = right / n, z2 = Z * Z;
  const middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = Z / (1 + z2 / n) * Math.sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  return { n, right, share, low: Math.max(0, middle - half), high: Math.min(1, middle + half) };
}

/** @param {ArrayBuffer} bytes @param {View} view @returns {Table} */
function unpacked(bytes, view) {
  const n = view.images, c = view.classes.length, s = view.parts.length;
  const ints = 4 * (s + 1) * n * c;
  return {
    base: new Float32Array(bytes, 0, n * c),
    scores: new Float32Array(bytes, 4 * n * c, s * n * c),
    truth: new Int32Array(bytes, ints, n),
    groups: new Int32Array(bytes, ints + 4 * n, n),
    numbers: new Int32Array(bytes, ints + 8 * n, n),
  };
}

/** Logits with gains. @param {Table} table @param {Float64Array} gains */
function edited(table, gains) {
  const found = table.base.slice(), size = found.length;
  gains.forEach((gain, part) => {
    if (gain === 1) return;
    const away = 1 - gain, start = part * size;
    for (let i = 0; i < size; i++) found[i] -= away * table.scores[start + i];
  });
  return found;
}

/** The class of the largest logit, the first among equals. @param {Float32Array} logits @param {number} classes */
function predicted(logits, classes) {
  const found = new Int32Array(logits.length / classes);
  for (let n = 0; n < found.length; n++) {
    let best = 0;
    for (let c = 1; c < classes; c++) {
      if (logits[n * classes + c] > logits[n * classes + best]) best = c;
    }
    found[n] = best;
  }
  return found;
}

/** Right ones of each group. @param {Int32Array} of @param {Int32Array} truth @param {Int32Array} told @param {number} count */
function counted(of, truth, told, count) {
  const right = new Int32Array(count);
  for (let n = 0; n < of.length; n++) if (truth[n] === told[n]) right[of[n]]++;
  return right;
}

const formats = [1, 4].map((digits) => new Intl.NumberFormat("en", {
  minimumFractionDigits: digits, maximumFractionDigits: digits, useGrouping: false, roundingMode: "halfEven",
}));
/** A number as the server writes it. @param {number} value @param {number} digits 1 or 4 */
const fixed = (value, digits = 1) => formats[digits === 1 ? 0 : 1].format(value);
/** @param {number} share */
const percent = (share) => fixed(100 * share);
/** @param {number} change */
const points = (change) => {
  const said = fixed(100 * change);
  return Number(said) < 0 ? said : `+${said.replace("-", "")}`;
};
/** @param {string} text */
const soft = (text) => made("span", { class: "soft" }, text);

/** @param {HTMLElement} row @param {Rate} before @param {Rate} after */
function tell(row, before, after) {
  const interval = soft(`(${percent(after.low)}–${percent(after.high)}%)`);
  row.querySelector("[data-after]")?.replaceChildren(`${percent(after.share)}% `, interval);
  row.querySelector("[data-change]")?.replaceChildren(points(after.share - before.share));
}

class Page {
  /** @param {HTMLElement} root @param {View} view @param {Table} table */
  constructor(root, view, table) {
    this.root = root;
    this.view = view;
    this.table = table;
    this.gains = Float64Array.from(view.gains_s);
    this.before = predicted(table.base, view.classes.length);
    this.picked = table.numbers.indexOf(view.picked.index);
    /** @type {Slider[]} */
    this.sliders = [];
    /** @type {HTMLElement[]} */
    this.changed = [];
    this.waits = false;
    this.build();
  }

  /** A slider over some parts. @param {string} name @param {number[]} parts */
  slider(name, parts) {
    const input = /** @type {HTMLInputElement} */ (
      made("input", { type: "range", min: "0", max: "2", step: "0.05", "aria-label": `gain of ${name}` })
    );
    const said = made("output", {});
    const slider = { input, said, parts };
    input.addEventListener("input", () => {
      for (const part of parts) this.gains[part] = Number(input.value);
      this.soon();
    });
    this.sliders.push(slider);
    return made("label", { class: "gain" }, made("span", {}, name), input, said);
  }

  build() {
    const { parts, layers, heads, properties } = this.view, count = layers * heads;
    const of = (/** @type {number} */ from, /** @type {number} */ n) => Array.from({ length: n }, (_, i) => from + i);
    const box = place("sliders");
    /** @param {string} title @param {boolean} open @param {HTMLElement[]} sliders */
    const add = (title, open, sliders) => {
      if (!sliders.length) return;
      box.append(made("details", open ? { open: "" } : {}, made("summary", {}, title), ...sliders));
    };
    add("Properties: all heads with the label", true,
      Object.entries(properties).map(([name, own]) => this.slider(name, own)));
    add("Layers of attention: heads and output bias", !Object.keys(properties).length,
      of(0, layers).map((i) => this.slider(`layer ${i}`, [...of(i * heads, heads), count + layers + 1 + i])));
    add("The start and the MLPs", false, of(count, layers + 1).map((part) =>
      this.slider(parts[part] === "start" ? "the start" : `MLP ${parts[part].slice(3)}`, [part])));
    for (const i of of(0, layers)) {
      add(`Heads of layer ${i}`, false, of(i * heads, heads).map((part) => this.slider(`head ${parts[part]}`, [part])));
    }
    add("Output biases of attention", false, of(count + layers + 1, layers).map((part) =>
      this.slider(`bias of layer ${parts[part].slice(4)}`, [part])));
    place("no-script").textContent =
      "From 0 (at its mean) over 1 (as it is) to 2 (twice). What a slider of several parts shows is their mean gain.";
    this.show();
  }

  /** Show what the gains bring before the next picture is drawn, once. */
  soon() {
    if (this.waits) return;
    this.waits = true;
    requestAnimationFrame(() => {
      this.waits = false;
      this.show();
    });
  }

  get words() {
    const moved = [...this.gains].map((gain, i) => (gain === 1 ? "" : `${this.view.parts[i]}:${gain}`));
    return moved.filter(Boolean).join(" ");
  }

  show() {
    const { view, table } = this, classes = view.classes.length;
    const logits = edited(table, this.gains), told = predicted(logits, classes);
    this.showGains();
    this.showFigures(told);
    this.showLogits(logits);
    this.showChanges(told);
  }

  showGains() {
    for (const { input, said, parts } of this.sliders) {
      const gains = parts.map((part) => this.gains[part]);
      const mean = gains.reduce((a, b) => a + b, 0) / gains.length;
      input.value = String(mean);
      said.textContent = gains.every((gain) => gain === gains[0]) ? mean.toFixed(2) : `mean ${mean.toFixed(2)}`;
    }
    const words = this.words;
    for (const field of document.querySelectorAll("[data-gains]")) {
      /** @type {HTMLInputElement} */ (field).value = words;
    }
    const save = /** @type {HTMLAnchorElement} */ (place("save")), to = new URL(save.href);
    to.searchParams.set("gains", words);
    save.href = to.href;
    const here = new URL(location.href);
    here.searchParams.set("gains", words);
    // Browsers refuse more than some hundred changes in half a minute, and pictures that come and
    // go are no help: what the slider comes to rest at counts.
    clearTimeout(this.later);
    this.later = setTimeout(() => {
      history.replaceState(null, "", here);
      place("changed").replaceChildren(...this.changed);
    }, 200);
  }

  /** @param {Int32Array} told */
  showFigures(told) {
    const { before } = this.view, { truth, groups } = this.table;
    const rightClasses = counted(truth, truth, told, before.by_class.length);
    const rightGroups = counted(groups, truth, told, before.by_group.length);
    const byClass = before.by_class.map((of, i) => rate(of.rate.n, rightClasses[i]));
    const byGroup = before.by_group.map((of, i) => rate(of.rate.n, rightGroups[i]));
    const all = rightClasses.reduce((a, b) => a + b, 0);
    let worst = before.worst;
    byGroup.forEach((of, i) => {
      if (of.n && (of.share < byGroup[worst].share || (of.share === byGroup[worst].share && i < worst))) worst = i;
    });
    for (const row of /** @type {NodeListOf<HTMLElement>} */ (document.querySelectorAll("#figures [data-kind]"))) {
      const number = Number(row.dataset.number);
      if (row.dataset.kind === "whole") tell(row, before.whole, rate(before.whole.n, all));
      if (row.dataset.kind === "class") tell(row, before.by_class[number].rate, byClass[number]);
      if (row.dataset.kind === "group") tell(row, before.by_group[number].rate, byGroup[number]);
    }
    const now = place("now"), { share } = byGroup[worst];
    now.querySelector("[data-whole]")?.replaceChildren(`${percent(all / before.whole.n)}%`);
    now.querySelector("[data-worst]")?.replaceChildren(`${percent(share)}% (${before.by_group[worst].name})`);
  }

  /** @param {Float32Array} logits */
  showLogits(logits) {
    const c = this.view.classes.length, own = logits.subarray(this.picked * c, (this.picked + 1) * c);
    const best = Math.max(...own);
    document.querySelectorAll("#logits tr td:last-child").forEach((cell, i) => {
      cell.textContent = fixed(own[i], 4) + (own[i] === best ? " ◀" : "");
    });
  }

  /** @param {Int32Array} told */
  showChanges(told) {
    const { before, view, table } = this, store = this.root.dataset.store;
    let count = 0;
    const shown = [];
    for (let n = 0; n < told.length; n++) {
      if (told[n] === before[n]) continue;
      count++;
      if (shown.length >= SHOWN) continue;
      const names = [table.truth[n], before[n], told[n]].map((c) => view.classes[c]);
      const words = `${names[0]}: ${names[1]} → ${names[2]}`, at = `/s/${store}/image/${table.numbers[n]}`;
      const picture = made("img", {
        src: `${at}/thumbnail.jpg`, alt: `image ${table.numbers[n]}: ${words}`, loading: "lazy", width: "96", height: "96",
      });
      shown.push(made("figure", { class: "thumb" }, made("a", { href: at }, picture), made("figcaption", {}, words)));
    }
    place("changes").textContent = count.toLocaleString("en");
    this.changed = shown;
  }
}

async function begin() {
  const root = document.getElementById("what-if"), state = document.getElementById("state");
  if (!root || !state) return;
  state.hidden = false;
  state.textContent = "The table of logits is being fetched: sliders come with it.";
  try {
    const [said, bytes] = await Promise.all([root.dataset.json ?? "", root.dataset.table ?? ""].map((url) => fetch(url)));
    if (!said.ok || !bytes.ok) throw new Error(`the server answers ${said.ok ? bytes.status : said.status}`);
    const view = /** @type {View} */ (await said.json());
    new Page(root, view, unpacked(await bytes.arrayBuffer(), view));
    state.hidden = true;
  } catch (error) {
    state.textContent = `The sliders cannot be had: ${error instanceof Error ? error.message : error}. Gains can be typed.`;
  }
}

await begin();
export {};
