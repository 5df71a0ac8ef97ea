/* Makes the report's pictures live: zoom, hover with units, copy buttons. The page is complete
   without it. Charts are drawn by uPlot; the numbers come from the JSON block #figures. */
"use strict";
(() => {
  const FIGURES = JSON.parse(document.getElementById("figures").textContent);
  const STATES = [["cpu", "on a core"], ["delay", "waiting for a core"], ["blocked", "blocked"]];
  const groups = {};

  // Numbers in words, as stepscope.advisor.wording writes them ------------------------------

  const digits = (value) => {
    const size = Math.abs(value);
    if (size >= 99.95) return Math.round(value).toLocaleString("en-US");
    return size >= 9.995 ? value.toFixed(1) : value.toFixed(2);
  };
  const scaled = (value, steps) => {
    const size = Math.abs(value);
    const [factor, unit] = steps.find(([from]) => size >= from * 0.9995) ?? steps.at(-1);
    return `${digits(value / factor)} ${unit}`;
  };
  const bytes = (v) => scaled(v, [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"], [1, "B"]]);
  const WORDS = {
    s: (v) => (v === 0 ? "0 s" : scaled(v, [[3600, "h"], [60, "min"], [1, "s"], [1e-3, "ms"], [1e-6, "µs"]])),
    bytes,
    "bytes/s": (v) => `${bytes(v)}/s`,
    share: (v) => `${digits(100 * v)} %`,
    "1/s": (v) => `${digits(v)} a second`,
    "": digits,
  };
  const words = (value, unit) => {
    if (value === null || value === undefined) return "not measured";
    return (WORDS[unit] ?? ((v) => `${digits(v)} ${unit}`))(value);
  };
  const brief = (value, unit) => words(value, unit).replace(/\.0+(?= |$)|(\.\d*?)0+(?= |$)/, "$1");
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };

  // What every chart has in common ------------------------------------------------------------

  const SECONDS = [1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1].flatMap((v) => [v, 2 * v, 5 * v]).concat([1, 2, 5, 10, 20, 30], [1, 2, 5, 10, 20, 30].map((v) => 60 * v), [1, 2, 5, 10, 24, 48, 120].map((v) => 3600 * v));
  // Letters grow with the page on large screens.
  const em = () => parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;

  const axes = (xUnit, yUnit, more = {}) => {
    const common = {
      stroke: colour("soft"),
      font: `${Math.round(12 * em())}px system-ui, sans-serif`,
      grid: { stroke: colour("line"), width: 1 },
      ticks: { stroke: colour("line"), width: 1, size: 4 },
    };
    const x = (u, values) => values.map((v) => (xUnit === "step" ? (Number.isInteger(v) ? v.toLocaleString("en-US") : "") : brief(v, "s")));
    const y = (u, values) => values.map((v) => (v === null ? "" : brief(v, yUnit === "cores" ? "" : yUnit)));
    const incrs = xUnit === "s" ? SECONDS : undefined;
    return [{ ...common, size: 30 * em(), space: 80 * em(), values: x, incrs }, { ...common, size: 68 * em(), values: y, ...more }];
  };

  const extent = (group) => {
    const ends = Object.values(FIGURES).filter((spec) => spec.group === group).map((spec) => (spec.kind === "lanes" ? span(spec) : [spec.x[0], spec.x.at(-1)]));
    return [Math.min(...ends.map(([first]) => first)), Math.max(...ends.map(([, last]) => last))];
  };

  const zoomGroup = (group, min, max) => {
    for (const other of groups[group]) {
      const scale = other.u.scales.x;
      if (scale.min !== min || scale.max !== max) other.u.setScale("x", { min, max });
    }
  };

  const draw = (figure) => {
    const spec = FIGURES[figure.dataset.figure];
    const host = figure.querySelector(".live");
    const { data, options, read } = spec.kind === "lanes" ? lanes(spec) : lines(spec);
    const chart = { figure, group: spec.group, read };
    const readout = figure.querySelector(".readout");
    const show = (u) => {
      const text = u.cursor.left >= 0 ? read(u) : null;
      readout.textContent = text ?? (figure.querySelector(".buttons") ? "Drag to zoom, hover for numbers." : "");
    };
    chart.u = new uPlot(
      {
        width: host.clientWidth,
        height: em() * (spec.kind === "lanes" ? 46 + 34 * spec.names.length : spec.group === "time" ? 150 : 240),
        legend: { show: false },
        padding: [10, 8, 0, 0],
        ...options,
        cursor: { y: false, drag: { x: true, y: false, dist: 4 }, points: { size: 6 }, sync: { key: spec.group, setSeries: false, scales: ["x", null] } },
        hooks: {
          ...options.hooks,
          setCursor: [show],
          setScale: [(u, key) => key === "x" && chart.u && zoomGroup(spec.group, u.scales.x.min, u.scales.x.max)],
        },
      },
      data,
      host,
    );
    (groups[spec.group] ??= []).push(chart);
    const [first, last] = extent(spec.group);
    chart.u.setScale("x", { min: first, max: last });
    figure.chart = chart.u; // for the curious, in the browser's console
    return chart;
  };

  // Curves --------------------------------------------------------------------------------------

  const lines = (spec) => {
    const values = spec.lines.map((line) => line.values);
    const drawn = spec.stacked ? values.map((_, i) => values[0].map((_, k) => (values[i][k] === null ? null : values.slice(0, i + 1).reduce((sum, v) => sum + v[k], 0)))) : values;
    const stepped = spec.x_unit === "step" ? uPlot.paths.stepped({ align: 1 }) : undefined;
    const series = spec.lines.map((line, i) => ({
      label: line.name,
      stroke: colour(`s${i + 1}`),
      fill: spec.stacked ? colour(`s${i + 1}`) : undefined,
      width: spec.stacked ? 0 : line.dashed ? 1 : 1.5,
      dash: line.dashed ? [4, 3] : undefined,
      points: { show: false },
      paths: stepped,
    }));
    // Painted from the last to the first: of a stack, each smaller sum covers its part.
    const order = series.map((_, i) => series.length - 1 - i);
    const read = (u) => {
      const i = u.cursor.idx;
      if (i === null || i === undefined) return null;
      const last = spec.last?.[i];
      const where = spec.x_unit === "step" ? (last > spec.x[i] ? `Steps ${spec.x[i].toLocaleString("en-US")} to ${last.toLocaleString("en-US")}` : `Step ${spec.x[i].toLocaleString("en-US")}`) : words(spec.x[i], "s");
      const known = spec.lines.filter((line) => line.values[i] !== null);
      const parts = known.map((line) => `${line.name} ${words(line.values[i], spec.unit)}`);
      const band = (spec.bands ?? []).filter(([from, to]) => from <= spec.x[i] && spec.x[i] < to);
      const reach = Math.max(0.5, (u.scales.x.max - u.scales.x.min) / 150);
      const near = (spec.marks ?? []).filter(([at]) => at >= spec.x[i] - reach && at <= (last ?? spec.x[i]) + 1 + reach);
      const notes = [...band, ...near.slice(0, 3)].map(([, , title]) => title);
      return `${where}: ${[parts.join(", ") || (notes.length ? "" : "not measured"), ...notes].filter(Boolean).join("; ")}`;
    };
    const options = {
      scales: { x: { time: false }, y: spec.log ? { distr: 3, range: (u, low, high) => [low * 0.8, high * 1.25] } : { range: (u, low, high) => [Math.min(0, low ?? 0), (high || 1) * 1.05] } },
      axes: axes(spec.x_unit, spec.unit),
      series: [{}, ...order.map((i) => series[i])],
      hooks: { drawClear: [(u) => bands(u, spec)], draw: [(u) => marks(u, spec)] },
    };
    return { data: [spec.x, ...order.map((i) => drawn[i])], options, read };
  };

  const bands = (u, spec) => {
    const { left, top, width, height } = u.bbox;
    u.ctx.fillStyle = colour("warn-page");
    for (const [from, to] of spec.bands ?? []) {
      const begin = Math.max(u.valToPos(from, "x", true), left);
      const end = Math.min(u.valToPos(to, "x", true), left + width);
      if (end > begin) u.ctx.fillRect(begin, top, end - begin, height);
    }
  };

  // Each kind of event has a colour of its own; the beginning of an epoch is a line from top to foot.
  const kinds = (spec) => [...new Set((spec.marks ?? []).map(([, kind]) => kind))];
  const paint = (spec, kind) => (kind === "epoch" ? "s8" : `s${3 + (kinds(spec).filter((each) => each !== "epoch").indexOf(kind) % 5)}`);

  const marks = (u, spec) => {
    const { left, top, width, height } = u.bbox;
    const ratio = devicePixelRatio;
    const paints = Object.fromEntries(kinds(spec).map((kind) => [kind, colour(paint(spec, kind))]));
    for (const [at, kind] of spec.marks ?? []) {
      const x = u.valToPos(at, "x", true);
      if (x < left || x > left + width) continue;
      u.ctx.fillStyle = paints[kind];
      const tall = kind === "epoch" ? height : 9 * ratio;
      u.ctx.fillRect(x - ratio, top + height - tall, 2 * ratio, tall);
    }
  };

  // Workers: one lane each, one box for each batch -------------------------------------------------

  const span = (spec) => {
    const end = spec.start.reduce((most, start, i) => Math.max(most, start + spec.wall[i]), 0);
    return [spec.start.reduce((least, start) => Math.min(least, start), end), end];
  };

  const lanes = (spec) => {
    const count = spec.names.length;
    const boxes = (u) => {
      const paints = STATES.map(([state]) => colour(state));
      const { left, top, width, height } = u.bbox;
      const room = height / count;
      u.ctx.save();
      u.ctx.beginPath();
      u.ctx.rect(left, top, width, height);
      u.ctx.clip();
      spec.start.forEach((start, i) => {
        const from = u.valToPos(start, "x", true);
        const to = u.valToPos(start + spec.wall[i], "x", true);
        if (to < left || from > left + width) return;
        const floor = top + room * (spec.lane[i] + 0.9);
        const tall = room * 0.8;
        const cpu = Math.min(1, spec.cpu[i] / (spec.wall[i] || 1));
        const delay = Math.min(1 - cpu, spec.delay[i] / (spec.wall[i] || 1));
        let below = 0;
        [cpu, delay, 1 - cpu - delay].forEach((part, state) => {
          u.ctx.fillStyle = paints[state];
          u.ctx.fillRect(Math.floor(from), floor - tall * (below + part), Math.max(Math.floor(to) - Math.floor(from), 1), tall * part);
          below += part;
        });
      });
      u.ctx.restore();
    };
    const read = (u) => {
      const at = u.posToVal(u.cursor.left, "x");
      const row = Math.floor((u.cursor.top / u.over.clientHeight) * count);
      const i = spec.start.findIndex((start, k) => spec.lane[k] === row && start <= at && at <= start + spec.wall[k]);
      const name = spec.names[Math.min(Math.max(row, 0), count - 1)];
      if (i < 0) return `${words(at, "s")}: ${name} ${spec.stride > 1 ? "idle, or at a batch that was not kept" : "idle"}`;
      const rest = Math.max(0, spec.wall[i] - spec.cpu[i] - spec.delay[i]);
      const spent = [spec.cpu[i], spec.delay[i], rest].map((v, state) => `${STATES[state][1]} ${words(v, "s")}`);
      return `${words(spec.start[i], "s")}: ${name}, a batch in ${words(spec.wall[i], "s")}: ${spent.join(", ")}`;
    };
    const names = { splits: () => spec.names.map((_, k) => count - k - 0.5), values: () => spec.names, grid: { show: false }, size: 92 * em() };
    const options = {
      scales: { x: { time: false, range: (u, low, high) => [low, high] }, y: { range: [0, count] } },
      axes: axes("s", "", names),
      series: [{}, { show: true, paths: () => null, points: { show: false } }],
      hooks: { draw: [boxes] },
    };
    return { data: [span(spec), [0, 0]], options, read };
  };

  // Around a chart: legend, buttons, keys, read-out ------------------------------------------------

  const frame = (figure) => {
    const spec = FIGURES[figure.dataset.figure];
    const caption = figure.querySelector("figcaption");
    const host = make("div", { class: "live", tabindex: "0", role: "group", "aria-label": `${caption.textContent.trim().split(".")[0]}. Chart: arrow keys read values, plus and minus zoom, 0 shows everything.` });
    const readout = make("p", { class: "readout", "aria-live": "polite" });
    const buttons = [["+", "Zoom in", 0.5, 0], ["−", "Zoom out", 2, 0], ["◂", "Earlier", 1, -0.5], ["▸", "Later", 1, 0.5], ["↔", "Show everything", 0, 0]].map(([sign, label, factor, shift]) => {
      const button = make("button", { type: "button", title: label, "aria-label": label }, sign);
      button.addEventListener("click", () => zoom(figure.chart, spec.group, factor, shift));
      return button;
    });
    const own = figure.querySelector(":scope > .legend");
    const entry = (swatch, name) => make("li", {}, make("span", { class: `swatch ${swatch}` }), name);
    const entries = () => [...spec.lines.map((line, i) => entry(`s${i + 1}${line.dashed ? " dashed" : ""}`, line.name)), ...kinds(spec).map((kind) => entry(`${paint(spec, kind)} mark`, kind))];
    const legend = spec.kind === "lines" ? [make("ul", { class: "legend", "aria-label": "Curves and events" }, ...entries())] : own ? [own] : [];
    const section = figure.closest("section");
    const first = section.querySelector("figure[data-figure]") === figure; // its buttons move all charts of the section
    const tools = make("div", { class: "tools" }, ...legend, ...(first ? [make("span", { class: "buttons", role: "group", "aria-label": "Zoom" }, ...buttons)] : []));
    if (figure.firstElementChild === caption) caption.after(tools, host, readout);
    else caption.before(tools, host, readout);
    host.addEventListener("keydown", (event) => keys(event, figure.chart, spec));
    figure.classList.add("enhanced");
    const chart = draw(figure);
    chart.u.setCursor({ left: -10, top: -10 });
    return chart;
  };

  const zoom = (u, group, factor, shift) => {
    const [first, last] = extent(group);
    const { min, max } = u.scales.x;
    if (factor === 0) return u.setScale("x", { min: first, max: last });
    const half = Math.min(((max - min) * factor) / 2, (last - first) / 2);
    const middle = Math.min(Math.max((min + max) / 2 + shift * (max - min), first + half), last - half);
    return u.setScale("x", { min: middle - half, max: middle + half });
  };

  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  const ZOOMS = { "+": [0.5, 0], "=": [0.5, 0], "-": [2, 0], 0: [0, 0] };

  const keys = (event, u, spec) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in ZOOMS) zoom(u, spec.group, ...ZOOMS[event.key]);
    else if (event.key in ARROWS && (spec.kind === "lanes" || ARROWS[event.key][0])) move(u, spec, ...ARROWS[event.key]);
    else return;
    event.preventDefault();
  };

  const move = (u, spec, right, down) => {
    const { clientWidth: width, clientHeight: height } = u.over;
    const [left, top] = [u.cursor.left >= 0 ? u.cursor.left : 0, u.cursor.left >= 0 ? u.cursor.top : 5];
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    if (spec.kind === "lanes") {
      u.setCursor({ left: within(left + 8 * right, width - 1), top: within(top + (down * height) / spec.names.length, height - 1) });
    } else {
      const next = within(u.posToIdx(left) + (u.cursor.left >= 0 ? right : 0), u.data[0].length - 1);
      u.setCursor({ left: within(u.valToPos(u.data[0][next], "x"), width), top });
    }
  };

  // Ranks times steps --------------------------------------------------------------------------------

  // The picture is the page's own; the cell under the pointer, or under the arrow keys, is told.
  const heat = (figure) => {
    const spec = FIGURES[figure.dataset.heat];
    const svg = figure.querySelector(".heat-map");
    const rows = spec.mean.length / spec.columns;
    const here = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const readout = make("p", { class: "readout", "aria-live": "polite" }, "Hover, or use the arrow keys, for numbers.");
    const at = { x: 0, y: 0 };
    const span = (first, count, last) => (count > 1 ? `${first.toLocaleString("en-US")} to ${Math.min(first + count - 1, last).toLocaleString("en-US")}` : first.toLocaleString("en-US"));
    const show = (x, y) => {
      Object.assign(at, { x: Math.min(Math.max(x, 0), spec.columns - 1), y: Math.min(Math.max(y, 0), rows - 1) });
      for (const [name, value] of Object.entries({ class: "here", x: at.x, y: at.y, width: 1, height: 1 })) here.setAttribute(name, value);
      svg.append(here);
      const i = at.y * spec.columns + at.x;
      const ranks = span(spec.first_rank + at.y * spec.ranks_per_row, spec.ranks_per_row, Infinity);
      const steps = span(spec.first_step + at.x * spec.steps_per_column, spec.steps_per_column, Infinity);
      const [mean, longest] = [spec.mean[i], spec.longest[i]];
      const whose = spec.whose.length && longest !== null ? ` (rank ${spec.whose[i]})` : "";
      const numbers = mean === null ? "not recorded" : longest === mean ? words(mean / 1e6, "s") : `mean ${words(mean / 1e6, "s")}, longest ${words(longest / 1e6, "s")}${whose}`;
      readout.textContent = `Rank ${ranks}, step ${steps}: ${numbers}`;
    };
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect();
      show(Math.floor(((event.clientX - box.left) / box.width) * spec.columns), Math.floor(((event.clientY - box.top) / box.height) * rows));
    });
    svg.addEventListener("keydown", (event) => {
      if (!(event.key in ARROWS) || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      show(at.x + ARROWS[event.key][0], at.y + ARROWS[event.key][1]);
    });
    svg.addEventListener("focus", () => show(at.x, at.y));
    svg.setAttribute("tabindex", "0");
    svg.setAttribute("role", "application");
    figure.querySelector("figcaption").before(readout);
  };

  // The rest of the page -----------------------------------------------------------------------------

  const copyable = (pre) => {
    const button = make("button", { type: "button", class: "copy" }, "Copy");
    const done = (worked) => {
      button.textContent = worked ? "Copied" : "Press Ctrl+C";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    };
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(pre.textContent);
        done(true);
      } catch {
        getSelection().selectAllChildren(pre);
        done(document.execCommand("copy"));
      }
    });
    const box = make("div", { class: "code" });
    pre.replaceWith(box);
    box.append(pre, button);
  };

  const tips = () => {
    const tip = make("div", { class: "tip", "aria-hidden": "true", hidden: "" });
    document.body.append(tip);
    for (const title of document.querySelectorAll("svg title")) {
      title.parentNode.dataset.tip = title.textContent;
      title.remove(); // or the browser shows its own, later, on top of ours
    }
    document.addEventListener("pointermove", (event) => {
      const target = event.target.closest?.("[data-tip]");
      tip.hidden = !target;
      if (!target) return;
      tip.textContent = target.dataset.tip;
      const room = innerWidth - tip.offsetWidth - 8;
      tip.style.left = `${Math.max(8, Math.min(event.clientX + 12, room))}px`;
      tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 12)}px`;
    });
  };

  // What scrolls sideways can be reached by keyboard; what fits is no stop on the way.
  const scrollers = () => {
    for (const box of document.querySelectorAll(".scroll")) {
      const needed = box.scrollWidth > box.clientWidth;
      for (const [name, value] of [["tabindex", "0"], ["role", "group"], ["aria-label", box.querySelector("caption").textContent]]) {
        if (needed) box.setAttribute(name, value);
        else box.removeAttribute(name);
      }
    }
  };

  const reveal = (hash) => {
    const target = document.getElementById(decodeURIComponent(hash.slice(1)));
    for (let box = target; box; box = box.parentElement) if (box.tagName === "DETAILS") box.open = true;
    return target;
  };

  // In a notebook's frame, which has no address of its own, links to places on the page lead away.
  const jump = (event) => {
    const link = event.target.closest?.("a[href^='#']");
    if (!link || location.protocol !== "about:") return;
    event.preventDefault();
    reveal(link.hash).scrollIntoView();
  };

  const start = () => {
    document.querySelectorAll("pre").forEach(copyable);
    document.querySelectorAll("figure[data-heat]").forEach(heat);
    tips();
    reveal(location.hash);
    scrollers();
    addEventListener("resize", scrollers);
    addEventListener("toggle", scrollers, true);
    addEventListener("hashchange", () => reveal(location.hash));
    document.addEventListener("click", jump);
    const charts = [...document.querySelectorAll("figure[data-figure]")].filter((figure) => figure.dataset.figure in FIGURES).map(frame);
    const observer = new ResizeObserver((entries) => {
      for (const { target } of entries) {
        const { u } = charts.find((chart) => chart.u.root.parentElement === target) ?? {};
        if (u && target.clientWidth && target.clientWidth !== u.width) u.setSize({ width: target.clientWidth, height: u.height });
      }
    });
    charts.forEach((chart) => observer.observe(chart.u.root.parentElement));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const name of Object.keys(groups)) delete groups[name];
      for (const chart of charts) {
        chart.u.destroy();
        chart.u = draw(chart.figure).u;
      }
    });
    document.documentElement.classList.add("ready");
  };

  // After the first paint: the text is what people came for.
  requestAnimationFrame(() => setTimeout(start));
})();
