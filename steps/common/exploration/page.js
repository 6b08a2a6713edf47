// The map, its lists and its keys. Texts of the corpus are only ever set as text.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  const count = data.rows.length;
  const number = new Intl.NumberFormat("en");

  // Paul Tol's muted and light schemes, which the colour-blind can tell apart; a scale of one hue, that ends in what stands out.
  const PALETTES = {
    light: {
      categories: ["#332288", "#cc6677", "#117733", "#88ccee", "#999933", "#882255", "#44aa99", "#aa4499"],
      scale: ["#c3d3e6", "#08306b"], grey: ["#b4b9c0", "#d3d7dc"], plain: "#3f6fb5", paper: "#ffffff", ink: "#1b1f24", mark: "#b3261e", near: "#1a56c4",
    },
    dark: {
      categories: ["#77aadd", "#ee8866", "#eedd88", "#ffaabb", "#44bb99", "#99ddff", "#bbcc33", "#aaaa00"],
      scale: ["#3a639a", "#e3f1ff"], grey: ["#737b86", "#4a525c"], plain: "#77aadd", paper: "#14171b", ink: "#e4e7eb", mark: "#ffb4a9", near: "#8ab4ff",
    },
  };
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const palette = () => (dark.matches ? PALETTES.dark : PALETTES.light);

  // What is shown: the column of the colours, the labels that alone are shown, the hits of the last question, the text that is open and its
  // neighbours, and the point that the arrow keys are at. Hits and neighbours are {row, place, on_map, point, score, id, text, columns}: `point` is
  // the nearest one where the row itself is not on the map.
  let column = data.columns[0] ?? null;
  const only = new Set();
  let hits = [], chosen = null, near = [], cursor = -1, asked = 0;

  // ---- places

  const canvas = byId("map"), frame = byId("frame"), context = canvas.getContext("2d");
  // Not Math.max(...values), which takes some ten thousand at most.
  const greatest = (values) => values.reduce((most, value) => Math.max(most, value), 1);
  const wide = greatest(data.x), high = greatest(data.y);
  let width = 0, height = 0, unit = 1, transform = d3.zoomIdentity;

  const PADDING = 24;
  const ofX = (x) => transform.applyX((width - wide * unit) / 2 + x * unit);
  const ofY = (y) => transform.applyY((height - high * unit) / 2 + y * unit);
  const atX = (point) => ofX(data.x[point]), atY = (point) => ofY(data.y[point]);
  const placeOf = (point) => [data.x[point], data.y[point]];

  const zoom = d3.zoom().scaleExtent([1, 200]).on("zoom", (event) => {
    transform = event.transform;
    byId("tip").hidden = true;
    redraw();
  });
  const surface = d3.select(canvas).call(zoom);
  const everyPoint = Array.from(data.rows.keys());
  const tree = d3.quadtree().x((point) => data.x[point]).y((point) => data.y[point]).addAll(everyPoint);

  function resize() {
    const ratio = devicePixelRatio || 1;
    [width, height] = [frame.clientWidth, frame.clientHeight];
    [canvas.width, canvas.height] = [width * ratio, height * ratio];
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    unit = Math.min(Math.max(1, width - 2 * PADDING) / wide, Math.max(1, height - 2 * PADDING) / high);
    zoom.extent([[0, 0], [width, height]]).translateExtent([[0, 0], [width, height]]);
    redraw();
  }

  /** The point at a place of the canvas, -1 where none is within `reach` pixels. */
  function pointAt(x, y, reach) {
    const [mapX, mapY] = [
      (transform.invertX(x) - (width - wide * unit) / 2) / unit, (transform.invertY(y) - (height - high * unit) / 2) / unit,
    ];
    const found = tree.find(mapX, mapY, reach / unit / transform.k);
    return found === undefined || !isShown(found) ? -1 : found;
  }

  // ---- drawing

  let waiting = false;
  function redraw() {
    if (waiting) return;
    waiting = true;
    requestAnimationFrame(() => { waiting = false; draw(); });
  }

  const codeOf = (point) => (column ? column.codes[point] : 0);
  // The points of each label.
  let groups = [];
  function group() {
    groups = Array.from({ length: column ? column.labels.length : 1 }, () => []);
    for (const point of everyPoint) groups[codeOf(point)].push(point);
  }

  const isShown = (point) => only.size === 0 || only.has(codeOf(point));

  function colourOf(code) {
    const { categories, scale, grey, plain } = palette();
    if (!column) return plain;
    if (code >= column.grey) return grey[Math.min(code - column.grey, 1)];
    if (!column.ordered) return categories[code];
    return d3.interpolateRgb(...scale)(column.grey === 1 ? 1 : code / (column.grey - 1));
  }

  function draw() {
    const colours = palette();
    context.clearRect(0, 0, width, height);
    const marked = hits.length > 0 || chosen !== null;
    const size = Math.min(7, (count > 20000 ? 1.2 : count > 5000 ? 1.6 : count > 1000 ? 2.2 : 4) * Math.pow(transform.k, 0.4));
    context.globalAlpha = marked ? 0.4 : count > 5000 ? 0.6 : 0.8;
    // What has no colour of its own lies below.
    for (let code = groups.length - 1; code >= 0; code--) {
      if (only.size && !only.has(code)) continue;
      context.fillStyle = colourOf(code);
      context.beginPath();
      for (const point of groups[code]) {
        const [x, y] = [atX(point), atY(point)];
        if (x < -9 || y < -9 || x > width + 9 || y > height + 9) continue;
        if (size < 2) context.fillRect(x - size, y - size, 2 * size, 2 * size);
        else { context.moveTo(x + size, y); context.arc(x, y, size, 0, 7); }
      }
      context.fill();
    }
    context.globalAlpha = 1;
    for (const [rank, text] of [...near.entries()].reverse()) mark(text.place, colours.near, rank + 1);
    if (!near.length) for (const [rank, text] of [...hits.entries()].reverse()) mark(text.place, colours.mark, rank + 1);
    if (chosen) ring(chosen.place, colours.ink, 11);
    if (cursor >= 0 && document.activeElement === canvas) ring(placeOf(cursor), colours.near, 8);
  }

  /** A disc with a number. */
  function mark(place, colour, rank) {
    const [x, y] = [ofX(place[0]), ofY(place[1])];
    context.beginPath();
    context.arc(x, y, 9, 0, 7);
    context.fillStyle = colour;
    context.fill();
    context.strokeStyle = palette().paper;
    context.lineWidth = 1.5;
    context.stroke();
    context.fillStyle = palette().paper;
    context.font = "600 11px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    context.fillText(rank, x, y + 0.5);
  }

  function ring(place, colour, radius) {
    context.lineWidth = 3;
    context.strokeStyle = colour;
    context.beginPath();
    context.arc(ofX(place[0]), ofY(place[1]), radius, 0, 7);
    context.stroke();
  }

  // ---- words

  const textOf = (point) => (data.texts ? data.texts[point] : data.ids[point]) || data.ids[point];

  function say(words, wrong = false) {
    byId("status").textContent = words;
    byId("status").classList.toggle("wrong", wrong);
  }

  function make(name, words, className) {
    const element = document.createElement(name);
    if (words !== undefined) element.textContent = words;
    if (className) element.className = className;
    return element;
  }

  /** A list of texts that the arrow keys go through, and that Tab enters once. */
  function list(parent, texts) {
    parent.replaceChildren(...texts.map((text, index) => {
      const button = make("button");
      button.type = "button";
      button.tabIndex = index === 0 ? 0 : -1;
      const words = make("span", text.text ?? text.id, "text");
      words.dir = "auto";
      button.append(make("span", index + 1, "rank"), words, make("span", text.score == null ? "" : text.score.toFixed(3), "score"));
      if (!text.on_map) button.append(make("span", "not one of the points of the map", "away"));
      button.addEventListener("click", () => choose(text, true));
      button.addEventListener("focus", () => { cursor = text.point; redraw(); });
      const item = make("li");
      item.append(button);
      return item;
    }));
  }

  for (const parent of [byId("hits"), byId("near")]) {
    parent.addEventListener("keydown", (event) => {
      const buttons = [...parent.querySelectorAll("button")], at = buttons.indexOf(document.activeElement);
      const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
      if (to === undefined || !buttons[to]) return;
      event.preventDefault();
      buttons.forEach((button, index) => { button.tabIndex = index === to ? 0 : -1; });
      buttons[to].focus();
    });
  }

  // ---- asking

  async function post(path, body) {
    let answer;
    try {
      answer = await fetch(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    } catch {
      throw new Error("The server of this page no longer answers. Start explore again.");
    }
    const content = await answer.json().catch(() => ({ message: `The server answered with status ${answer.status}.` }));
    if (!answer.ok) throw new Error(content.message);
    return content;
  }

  const ofPoint = (point) => ({
    row: data.rows[point], point, place: placeOf(point), on_map: true, score: null, id: data.ids[point], text: data.texts ? data.texts[point] : null, columns: columnsOf(point),
  });
  const columnsOf = (point) => Object.fromEntries(Object.entries(data.values).map(([name, values]) => [name, values[point]]));

  async function search() {
    const query = byId("query").value, turn = ++asked;
    if (!data.live) return show(findWords(query), query);
    say("Searching…");
    try {
      const answer = await post("search", { query });
      // A later question may have been answered meanwhile.
      if (turn !== asked) return;
      show(answer.hits, query, answer.truncated);
    } catch (error) {
      if (turn === asked) { show([], ""); say(error.message, true); }
    }
  }

  function findWords(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean), found = [];
    for (let point = 0; words.length && point < count && found.length < 20; point++) {
      const text = `${data.ids[point]} ${data.texts ? data.texts[point] : ""}`.toLowerCase();
      if (words.every((word) => text.includes(word))) found.push(ofPoint(point));
    }
    return found;
  }

  function show(found, query, truncated = false) {
    close(false);
    hits = found;
    list(byId("hits"), hits);
    byId("found").hidden = !hits.length;
    byId("found-title").textContent = data.live ? "Nearest by meaning" : "With these words";
    const cut = truncated ? " The question is longer than the model reads: only its beginning was searched with." : "";
    const more = !data.live && found.length === 20 ? "The first " : "";
    say(query.trim() ? `${more}${hits.length || "No"} text${hits.length === 1 ? "" : "s"} found.${cut}` : "");
    redraw();
  }

  // ---- one text

  async function choose(text, byList = false) {
    chosen = text;
    cursor = text.point;
    near = [];
    describe(text, byList);
    bringIn(text.place);
    redraw();
    if (!data.live) {
      return surround(text, (data.neighbours?.[text.point] ?? []).map(ofPoint));
    }
    try {
      const answer = await post("neighbours", { row: text.row });
      if (chosen !== text) return;
      describe(answer.row, false);
      surround(answer.row, answer.hits);
    } catch (error) {
      say(error.message, true);
    }
  }

  function surround(text, neighbours) {
    chosen = text;
    near = neighbours;
    list(byId("near"), near);
    byId("near-title").hidden = !near.length;
    say(`${text.id} is open, with ${near.length} neighbours.`);
    redraw();
  }

  function describe(text, byList) {
    byId("chosen").hidden = false;
    byId("chosen-id").textContent = text.id;
    byId("chosen-text").textContent = text.text ?? "";
    byId("chosen-text").hidden = text.text === null;
    byId("chosen-columns").replaceChildren(...Object.entries(text.columns).flatMap(([name, value]) => {
      const words = make("dd", value ?? "none");
      words.dir = "auto";
      return [make("dt", name), words];
    }));
    byId("near").replaceChildren();
    if (byList) byId("chosen").focus();
  }

  function close(back = true) {
    if (!chosen) return;
    chosen = null;
    near = [];
    byId("chosen").hidden = true;
    if (back) (hits.length ? byId("hits").querySelector("button[tabindex='0']") : canvas).focus();
    redraw();
  }

  /** Move the map so that a place is in sight. */
  function bringIn(place) {
    const [x, y] = [ofX(place[0]), ofY(place[1])];
    if (x < 20 || y < 20 || x > width - 20 || y > height - 20) {
      surface.call(zoom.translateTo, transform.invertX(x), transform.invertY(y));
    }
  }

  // ---- colours

  function fillLegend() {
    byId("legend").replaceChildren(...(column ? column.labels : []).map((label, code) => {
      const button = make("button"), dot = make("span", "", "dot"), words = make("span", label);
      button.type = "button";
      dot.style.background = colourOf(code);
      words.dir = "auto";
      button.setAttribute("aria-pressed", only.has(code));
      button.append(dot, words);
      button.addEventListener("click", () => {
        only.has(code) ? only.delete(code) : only.add(code);
        button.setAttribute("aria-pressed", only.has(code));
        const left = only.size ? everyPoint.filter(isShown).length : count;
        say(`${number.format(left)} texts are shown.`);
        redraw();
      });
      const item = make("li");
      item.append(button);
      return item;
    }));
  }

  byId("colours").hidden = !data.columns.length;
  byId("column").append(...[...data.columns, null].map((one, index) => {
    const option = make("option", one ? one.name : "nothing");
    option.value = index;
    return option;
  }));
  byId("column").addEventListener("change", (event) => {
    column = data.columns[event.target.value] ?? null;
    only.clear();
    group();
    fillLegend();
    redraw();
  });

  // ---- hands

  byId("ask")?.addEventListener("click", search);
  // Not by a form: a sandboxed frame has none.
  byId("query").addEventListener("keydown", (event) => { if (event.key === "Enter") search(); });
  byId("query").addEventListener("input", () => { if (!data.live) search(); });
  byId("close").addEventListener("click", () => close());
  byId("in").addEventListener("click", () => surface.call(zoom.scaleBy, 1.6));
  byId("out").addEventListener("click", () => surface.call(zoom.scaleBy, 1 / 1.6));
  byId("all").addEventListener("click", () => surface.call(zoom.transform, d3.zoomIdentity));

  canvas.addEventListener("click", (event) => {
    const found = pointAt(event.offsetX, event.offsetY, event.pointerType === "touch" ? 24 : 12);
    if (found >= 0) choose(ofPoint(found));
    else close(false);
  });
  canvas.addEventListener("pointermove", (event) => {
    const found = event.pointerType === "mouse" && !event.buttons ? pointAt(event.offsetX, event.offsetY, 12) : -1;
    const tip = byId("tip");
    tip.hidden = found < 0;
    if (found < 0) return;
    tip.textContent = textOf(found);
    const [left, top] = [atX(found) + 12, atY(found) + 12];
    tip.style.left = `${Math.max(4, Math.min(left, width - tip.offsetWidth - 4))}px`;
    tip.style.top = `${top + tip.offsetHeight > height ? Math.max(4, top - tip.offsetHeight - 24) : top}px`;
  });
  canvas.addEventListener("pointerleave", () => { byId("tip").hidden = true; });
  canvas.addEventListener("focus", redraw);
  canvas.addEventListener("blur", redraw);

  const DIRECTIONS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (DIRECTIONS[event.key]) go(DIRECTIONS[event.key]);
    else if (event.key === "Enter" || event.key === " ") { if (cursor >= 0) choose(ofPoint(cursor)); }
    else if (event.key === "+" || event.key === "=") zoomAt(1.6);
    else if (event.key === "-") zoomAt(1 / 1.6);
    else if (event.key === "0") surface.call(zoom.transform, d3.zoomIdentity);
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Escape") close(); });

  function zoomAt(factor) {
    surface.call(zoom.scaleBy, factor, cursor >= 0 ? [atX(cursor), atY(cursor)] : undefined);
  }

  /** Go to the nearest point in a direction, or at first to the one nearest to the middle. */
  function go([right, down]) {
    const from = cursor >= 0 ? [atX(cursor), atY(cursor)] : [width / 2, height / 2];
    let best = -1, least = Infinity;
    for (let point = 0; point < count; point++) {
      if (point === cursor || !isShown(point)) continue;
      const [x, y] = [atX(point) - from[0], atY(point) - from[1]];
      const ahead = x * right + y * down, aside = Math.abs(x * down) + Math.abs(y * right);
      if (cursor >= 0 && (ahead < 1 || aside > ahead)) continue;
      const far = cursor >= 0 ? ahead + 2 * aside : Math.hypot(x, y);
      if (far < least) [best, least] = [point, far];
    }
    if (best < 0) return say("There is no text further that way.");
    cursor = best;
    bringIn(placeOf(best));
    say(textOf(best));
    redraw();
  }

  dark.addEventListener("change", () => { fillLegend(); redraw(); });
  new ResizeObserver(resize).observe(frame);
  group();
  fillLegend();
  resize();
})();
