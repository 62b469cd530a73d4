"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (what, within = document) => within.querySelector(what);
  const $$ = (what, within = document) => [...within.querySelectorAll(what)];
  const el = (name, text = "", attributes = {}) => {
    const made = document.createElement(name);
    made.textContent = text;
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    return made;
  };
  const dash = "—";
  const number = (value, digits = 2) => (value == null ? dash : value.toFixed(digits));
  const percent = (value) => (value == null ? dash : `${value > 0 ? "+" : ""}${(100 * value).toFixed(1)}`);

  // Tables: sort and filter

  function sortable(table) {
    for (const head of $$("thead th", table)) {
      const button = el("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const up = head.getAttribute("aria-sort") !== "ascending";
        for (const other of $$("th[aria-sort]", table)) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        const key = (row) => {
          const cell = row.cells[head.cellIndex];
          const text = (cell.dataset.v ?? cell.textContent).trim();
          return text === "" || text === dash ? null : Number.isNaN(Number(text)) ? text : Number(text);
        };
        const order = (a, b) => (typeof a === "number" && typeof b === "number" ? a - b : `${a}`.localeCompare(`${b}`));
        const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
        rows.sort(([a], [b]) => (a === null || b === null ? (a === null) - (b === null) : (up ? 1 : -1) * order(a, b)));
        table.tBodies[0].append(...rows.map(([, row]) => row));
      });
    }
  }
  $$("table.sortable").forEach(sortable);

  const filter = $("#filter");
  filter?.addEventListener("submit", (event) => event.preventDefault());
  filter?.addEventListener("input", () => {
    const words = $("input", filter).value.toLowerCase().split(/\s+/);
    const kind = $("select", filter).value;
    const rows = [...$("#paired").tBodies[0].rows];
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = (kind && row.dataset.kind !== kind) || !words.every((word) => text.includes(word));
    }
    $("output", filter).textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length} cells`;
  });

  // Light and dark

  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const label = () => ($("#theme").textContent = dark() ? "Light colours" : "Dark colours");
  $("#theme").addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    label();
  });
  label();

  // A list for each field -> an object for each prompt
  for (const cell of data.cells.filter((c) => c.prompts)) {
    const fields = Object.entries(cell.prompts);
    const word = new Set(["prompt", "finish0", "finish1"]);
    cell.prompts = cell.prompts.prompt.map((_, i) => Object.fromEntries(fields.map(([name, values]) => [name, word.has(name) ? data.words[values[i]] : values[i]])));
    for (const one of cell.prompts) {
      const { rate0, rate1, text0, text1, same } = one;
      Object.assign(one, { rates: [rate0, rate1], texts: [text0, text1], same: same == null ? null : Boolean(same) });
    }
  }

  // Charts

  const shapes = { circle: "●", triangle: "▲", square: "■", diamond: "◆", cross: "✚", star: "★" };
  const scales = (domain) => ({
    color: { domain, range: domain.map((_, i) => `var(--c${i % 6})`) },
    symbol: { domain, range: domain.map((_, i) => Object.keys(shapes)[i % 6]) },
  });
  const drafters = [...new Set(data.cells.filter((c) => c.k).map((c) => c.drafter))].sort();
  const several = ["suite", "profile"].filter((part) => new Set(data.cells.map((c) => c[part])).size > 1);
  const place = (c) => [c.endpoint, c.language, c.workload, c.thinking, c.variant, ...several.map((part) => c[part])].filter(Boolean).join(" ");
  const groups = (rows, by) => Map.groupBy(rows, by);
  const chosen = () => Number($("#run")?.value ?? data.cells[0]?.run);
  const cells = () => data.cells.filter((c) => c.run === chosen());

  function key(domain) {
    const list = el("ul", "", { class: "key" });
    domain.forEach((name, i) => {
      const item = el("li");
      item.append(el("span", `${Object.values(shapes)[i % 6]} `, { style: `color: var(--c${i % 6})`, "aria-hidden": "true" }), name);
      list.append(item);
    });
    return list;
  }

  const most = 80; // rows, or panels, of a chart
  function panels(name, every, domain, draw) {
    const parts = new Map([...every].slice(0, most));
    const box = $(`[data-chart="${name}"] .plots`);
    if (!box) return;
    box.replaceChildren(...(domain.length > 1 ? [key(domain)] : []));
    const fit = Math.max(1, Math.min(parts.size, Math.floor(box.clientWidth / 340)));
    const columns = fit > 2 && parts.size % fit === 1 ? fit - 1 : fit; // no panel alone in its line
    box.style.gridTemplateColumns = `repeat(${columns}, minmax(0, 1fr))`;
    const width = Math.min(parts.size === 1 ? 900 : 560, box.clientWidth / columns - 16);
    for (const [title, rows] of parts) {
      const panel = el("div");
      if (title) panel.append(el("h3", title));
      const plot = { width, marginBottom: 40, ...scales(domain), style: { fontSize: "12px" }, ...draw(rows, width) };
      const svg = Plot.plot({ ...plot, x: { labelAnchor: "center", labelArrow: "none", labelOffset: 36, ...plot.x } });
      $$("g[aria-label]", svg).forEach((mark) => mark.removeAttribute("aria-label")); // the names of Plot's marks
      svg.setAttribute("role", "img");
      svg.setAttribute("aria-label", `${title}: the figures are in the table below`);
      panel.append(svg);
      box.append(panel);
    }
    if (parts.size < every.size) box.append(el("p", `${every.size - parts.size} more are in the table alone.`));
    if (!parts.size) box.append(el("p", "This run has nothing of it."));
  }

  // A value with its interval, for each name of `of`, the names side by side.
  function bars(rows, of, x, y) {
    const known = rows.filter((d) => d[y] != null);
    return [
      Plot.line(known, { x, y, z: of, stroke: of, strokeWidth: 1.5 }),
      Plot.ruleX(known.filter((d) => d.low != null), { x, y1: "low", y2: "high", stroke: of, strokeWidth: 1.5 }),
      Plot.dot(known, { x, y, fill: of, stroke: of, symbol: of, r: 3.5, title: "said", tip: true }),
    ];
  }
  const ends = (interval, scale = 1) => ({ low: interval && interval[0] * scale, high: interval && interval[1] * scale });
  const beside = (name, domain) => (domain.indexOf(name) - (domain.length - 1) / 2) * Math.min(0.07, 0.5 / domain.length);
  const drawn = (rows) => drafters.filter((name) => rows.some((c) => c.drafter === name));
  // More drafters than colours: a panel for each family.
  const panel = (c) => (drafters.length > Object.keys(shapes).length ? `${place(c)} ${c.family}` : place(c));

  const charts = {
    changes() {
      const all = cells().filter((c) => c.verdict?.change != null);
      const least = all.map((c) => Math.abs(c.verdict.change)).sort((a, b) => b - a)[most] ?? -1;
      const rows = all.filter((c) => Math.abs(c.verdict.change) > least).slice(0, most);
      const colors = { regressed: "var(--bad)", improved: "var(--good)", inconclusive: "var(--open)" };
      panels("changes", rows.length ? new Map([["", rows]]) : new Map(), [], (shown, width) => {
        const letters = Math.min(Math.max(...shown.map((c) => c.name.length)), Math.floor(width / 14));
        const short = (name) => (name.length > letters ? `${name.slice(0, letters / 2 - 1)}…${name.slice(-letters / 2)}` : name);
        const points = shown.map((c) => ({ name: c.name, at: 100 * c.verdict.change, kind: c.became, ...ends(c.verdict.ci, 100),
          said: `${c.name}: ${percent(c.verdict.change)} %` }));
        const fill = (d) => colors[d.kind] ?? "var(--ink)";
        return {
          height: 64 + 18 * shown.length, marginTop: 24, marginLeft: 10 + 6.8 * letters, color: {}, symbol: {},
          x: { label: "change of tokens per step, %", grid: true, nice: true },
          y: { domain: shown.map((c) => c.name), label: null, tickFormat: short, tickSize: 0 },
          marks: [
            Plot.ruleX([0]), Plot.ruleX([-2], { strokeDasharray: "4 3", stroke: "var(--bad)" }),
            Plot.ruleY(points.filter((d) => d.low != null), { y: "name", x1: "low", x2: "high", stroke: fill, strokeWidth: 2 }),
            Plot.dot(points, { y: "name", x: "at", r: 4, fill: (d) => (d.low == null ? "var(--back)" : fill(d)), stroke: fill, title: "said", tip: true }),
          ],
        };
      });
    },
    positions() {
      const rows = cells().filter((c) => c.k);
      const points = (c, figures, shift) => figures.acceptance.map((rate, i) => ({ drafter: c.drafter, x: i + shift, rate: rate && 100 * rate,
        ...ends(figures.acceptance_intervals[i], 100), said: `${c.drafter}, position ${i}: ${number(rate && 100 * rate, 1)} %` }));
      panels("positions", groups(rows, panel), drafters, (shown) => {
        const shift = (c) => beside(c.drafter, drawn(shown));
        const now = shown.flatMap((c) => points(c, c.figures, shift(c)));
        const old = shown.filter((c) => c.base?.k !== 0 && c.base).flatMap((c) => points(c, c.base, shift(c))).filter((d) => d.rate != null);
        return {
          height: 240, x: { label: "position", domain: [-0.4, Math.max(...shown.map((c) => c.k)) - 0.6], ticks: [...Array(Math.max(...shown.map((c) => c.k))).keys()], tickFormat: "d" },
          y: { label: "accepted, %", domain: [0, 100], grid: true },
          marks: [
            Plot.line(old, { x: "x", y: "rate", z: "drafter", stroke: "drafter", strokeDasharray: "3 3", strokeOpacity: 0.7 }),
            Plot.dot(old, { x: "x", y: "rate", stroke: "drafter", symbol: "drafter", fill: "var(--back)", r: 4.5 }),
            ...bars(now, "drafter", "x", "rate"),
          ],
        };
      });
    },
    speed() {
      const rows = cells().filter((c) => c.k && c.figures.speed_up != null);
      const families = [...new Set(rows.map((c) => c.family))].sort();
      panels("speed", groups(rows, place), families, (shown) => {
        const points = shown.map((c) => ({ family: c.family, k: c.k, rate: c.figures.speed_up, said: `${c.drafter}: ${number(c.figures.speed_up)}x` }));
        return { height: 220, x: { label: "k", type: "point" }, y: { label: "speed-up", grid: true }, marks: [Plot.ruleY([1], { strokeDasharray: "4 3", strokeOpacity: 0.6 }), ...bars(points, "family", "k", "rate")] };
      });
    },
    curves() {
      const ks = [...new Set(data.curves.flatMap((c) => c.points.map((p) => `k ${p.k}`)))].filter((k) => k !== "k 0");
      panels("curves", new Map(data.curves.map((c) => [data.runs.length > 1 ? `${c.name} (${data.runs[c.run].name})` : c.name, [c]])), ks, ([curve]) => {
        const levels = [...new Set(curve.points.map((p) => p.in_flight))];
        const at = (load, k) => levels.indexOf(load) + beside(k, ks);
        const points = curve.points.filter((p) => p.k).map((p) => ({ k: `k ${p.k}`, at: at(p.in_flight, `k ${p.k}`), rate: p.speed_up, ...ends(p.interval),
          said: `k ${p.k} at ${p.in_flight} in flight: ${number(p.speed_up)}x` }));
        const again = curve.measured.map((m) => ({ k: `k ${m.k}`, at: at(m.in_flight, `k ${m.k}`) + 0.25, rate: 1 + m.tok_s_change,
          low: m.tok_s_low == null ? null : 1 + m.tok_s_low, high: m.tok_s_high == null ? null : 1 + m.tok_s_high, said: `k ${m.k}, in turn: ${number(1 + m.tok_s_change)}x` }));
        return {
          height: 280, x: { label: "requests in flight", domain: [-0.4, levels.length - 0.5], ticks: levels.map((_, i) => i), tickFormat: (i) => `${levels[i]}` },
          y: { label: "speed-up", grid: true },
          marks: [
            Plot.ruleY([1], { strokeDasharray: "4 3", strokeOpacity: 0.6 }), ...bars(points, "k", "at", "rate"),
            Plot.ruleX(again.filter((d) => d.low != null), { x: "at", y1: "low", y2: "high", stroke: "k" }),
            Plot.dot(again, { x: "at", y: "rate", stroke: "k", symbol: "times", r: 5, strokeWidth: 2.5, title: "said", tip: true }),
          ],
        };
      });
    },
    along() {
      const rows = cells().filter((c) => c.k && c.figures.along.length);
      panels("along", groups(rows, panel), drafters, (shown) => {
        const names = [...new Set(shown.flatMap((c) => c.figures.along.map((s) => s.where)))];
        const points = shown.flatMap((c) => c.figures.along.map((s) => ({ drafter: c.drafter, at: names.indexOf(s.where) + beside(c.drafter, drawn(shown)), rate: s.rate, ...ends(s.interval),
          said: `${c.drafter}, ${s.where}: ${number(s.rate)}` })));
        return { height: 240, x: { label: "token of the answer", domain: [-0.4, names.length - 0.6], ticks: names.map((_, i) => i), tickFormat: (i) => names[i] }, y: { label: "tokens per step", grid: true }, marks: bars(points, "drafter", "at", "rate") };
      });
    },
    history() {
      panels("history", new Map((data.history?.series ?? []).map((s) => [s.name, s.points])), [], (points) => {
        const shown = points.map((p, at) => ({ at, rate: p.rate, changed: p.changed, ...ends(p.interval), said: `${p.run}: ${number(p.rate)}${p.changed ? ", changed" : ""}` }));
        const known = shown.filter((d) => d.rate != null);
        const one = { stroke: "var(--c0)" };
        return {
          height: 220, color: {}, symbol: {}, x: { label: "run", domain: [-0.4, points.length - 0.6], ticks: [0, points.length - 1], tickFormat: (i) => points[i].run.slice(0, 10) },
          y: { label: "tokens per step", grid: true },
          marks: [
            Plot.line(known, { x: "at", y: "rate", ...one }), Plot.ruleX(known.filter((d) => d.low != null), { x: "at", y1: "low", y2: "high", ...one }),
            Plot.dot(known, { x: "at", y: "rate", fill: "var(--c0)", ...one, r: 3, title: "said", tip: true }),
            Plot.dot(known.filter((d) => d.changed), { x: "at", y: "rate", symbol: "times", stroke: "var(--c1)", strokeWidth: 3, r: 7 }),
          ],
        };
      });
    },
    beside() {
      const rows = data.beside.filter((row) => row.run === chosen());
      panels("beside", groups(rows, (row) => row.place), data.endpoints, (shown) => {
        const points = shown.flatMap((row) => Object.entries(row.rates).map(([endpoint, of]) => ({ drafter: row.drafter, endpoint, rate: of.rate, ...ends(of.interval), said: `${row.drafter}, ${endpoint}: ${number(of.rate)}` })));
        const known = points.filter((d) => d.rate != null);
        const y = { fy: "drafter", y: "endpoint" };
        return {
          height: 50 + 34 * shown.length, marginLeft: 20 + 6.8 * Math.max(...shown.map((row) => row.drafter.length)),
          x: { label: "tokens per step", grid: true }, y: { axis: null }, fy: { label: null, axis: "left" },
          marks: [
            Plot.ruleY(known.filter((d) => d.low != null), { ...y, x1: "low", x2: "high", stroke: "endpoint", strokeWidth: 2 }),
            Plot.dot(known, { ...y, x: "rate", fill: "endpoint", stroke: "endpoint", symbol: "endpoint", r: 4, title: "said", tip: true }),
          ],
        };
      });
    },
    prompts() {
      const cell = data.cells[$("#cell")?.value];
      if (!cell) return;
      const shown = cell.prompts.map((prompt, i) => ({ prompt, i })).filter(({ prompt }) => prompt.rates.every((rate) => rate != null));
      const points = shown.map(({ prompt }) => ({ old: prompt.rates[0], now: prompt.rates[1], same: prompt.same, lost: prompt.rates[1] < prompt.rates[0] }));
      const largest = Math.max(1, ...points.flatMap((d) => [d.old, d.now])) * 1.05;
      const color = (d) => (d.lost ? "var(--c1)" : "var(--c0)");
      panels("prompts", points.length ? new Map([["", points]]) : new Map(), [], (_, width) => ({
        width: Math.min(width, 560), height: Math.min(width, 440), color: {}, symbol: {}, ariaLabel: "prompts",
        x: { label: `tokens per step, ${cell.verdict.common_beginning == null ? "" : "on the common beginning, "}old`, domain: [0.9, largest], grid: true },
        y: { label: "new", domain: [0.9, largest], grid: true },
        marks: [
          Plot.line([[0.9, 0.9], [largest, largest]], { strokeDasharray: "4 3" }),
          Plot.dot(points, { x: "old", y: "now", r: 5, stroke: color, fill: (d) => (d.same === false ? color(d) : "var(--back)"), fillOpacity: 0.8 }),
        ],
      }));
      const svg = $('[data-chart="prompts"] svg');
      if (svg) {
        svg.setAttribute("role", "group");
        svg.setAttribute("aria-label", "Prompts: move with the arrow keys, open with Enter");
        const dots = $$("circle", svg);
        dots.forEach((dot, at) => {
          const { prompt, i } = shown[at];
          const said = `${prompt.prompt}: ${number(prompt.rates[0])} to ${number(prompt.rates[1])}`;
          for (const [name, value] of Object.entries({ role: "button", "aria-label": said, tabindex: at ? -1 : 0 })) dot.setAttribute(name, value);
          dot.append(Object.assign(document.createElementNS(svg.namespaceURI, "title"), { textContent: said }));
          dot.addEventListener("click", () => open(cell, i));
          dot.addEventListener("keydown", (event) => {
            const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
            if (event.key === "Enter" || event.key === " ") open(cell, i);
            else if (!step) return;
            else {
              const next = dots[(at + step + dots.length) % dots.length];
              dots.forEach((other) => other.setAttribute("tabindex", other === next ? 0 : -1));
              next.focus();
            }
            event.preventDefault();
          });
        });
      }
      const body = $("#pairs").tBodies[0];
      $$("#pairs th[aria-sort]").forEach((head) => head.removeAttribute("aria-sort"));
      body.replaceChildren(...cell.prompts.map((prompt, i) => {
        const [old, now] = prompt.rates;
        const row = el("tr");
        const head = el("th", "", { scope: "row" });
        const button = el("button", prompt.prompt, { type: "button", class: "link" });
        button.addEventListener("click", () => open(cell, i));
        head.append(button, prompt.broken ? " ▼ lost its drafts" : "");
        const change = old && now ? now / old - 1 : null;
        const same = { true: "yes", false: "no" }[prompt.same] ?? dash;
        row.append(head, el("td", number(old)), el("td", number(now)), el("td", percent(change), { "data-v": change ?? "" }), el("td", same), el("td", prompt.same ? dash : `${prompt.part ?? dash}`));
        return row;
      }));
    },
  };

  // A prompt and both its answers

  let unpacked;
  const unpack = () => (unpacked ??= (async () => {
    const bytes = Uint8Array.from(atob($("#answers").textContent), (c) => c.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  })());
  const dialog = $("#pair");
  let here = [];

  async function open(cell, i) {
    here = [cell, i];
    const prompt = cell.prompts[i];
    const texts = await unpack();
    const text = (at) => (at == null ? null : texts[at] ?? `[left out: this page holds ${texts.length} of ${data.texts} texts, those that changed most first]`);
    const answers = prompt.texts.map(text);
    const [a, b] = answers.map((answer) => answer ?? "");
    let common = 0;
    while (common < Math.min(a.length, b.length) && a[common] === b[common]) common += 1;
    if (/[\uDC00-\uDFFF]/.test(a[common] ?? b[common] ?? "")) common -= 1;
    const parts = prompt.same === false && answers.every((answer) => answer != null);
    const after = prompt.part == null ? "" : `token ${prompt.part}, `;
    const several = prompt.answers > 1 ? ` ${prompt.answers} answers, of repeats or turns, count as one here; the first that differ are shown.` : "";
    $("#pair-name").textContent = `${prompt.prompt} · ${cell.name}`;
    $(".facts", dialog).textContent = (parts ? `The answers part after ${after}character ${common}, where the marks begin.` : prompt.same ? "Both answers have the same text." : "The records do not hold both texts.") + several;
    $(".asked", dialog).textContent = text(prompt.asked) ?? "The records hold a hash of the prompt and not its text. draftgate report --prompts-file FILE shows that of your own prompts.";
    $$(".sides > div", dialog).forEach((side, at) => {
      $("h3", side).textContent = `${at ? "New" : "Old"}: ${prompt[`tokens${at}`]} tokens in ${prompt[`steps${at}`]} steps, ended with ${prompt[`finish${at}`]}`;
      const shown = $("pre", side);
      shown.replaceChildren(answers[at] == null ? "The record holds no text." : parts ? answers[at].slice(0, common) : answers[at]);
      if (parts) shown.append(el("mark", answers[at].slice(common) || "∎"));
    });
    if (!dialog.open) dialog.showModal();
  }
  $("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  $$("[data-step]").forEach((button) => button.addEventListener("click", () => {
    const [cell, i] = here;
    open(cell, (i + Number(button.dataset.step) + cell.prompts.length) % cell.prompts.length);
  }));
  $$("[data-open]").forEach((button) => button.addEventListener("click", () => {
    $("#cell").value = button.dataset.open;
    charts.prompts();
    $("#prompts").scrollIntoView();
    $("#cell").focus({ preventScroll: true });
  }));

  const draw = () => Object.values(charts).forEach((chart) => chart());
  $("#cell")?.addEventListener("change", charts.prompts);
  $("#run")?.addEventListener("change", draw);
  let width = root.clientWidth, waiting;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => width !== (width = root.clientWidth) && draw(), 150);
  });
  draw();
  root.dataset.ready = "yes";
})();
