"use strict";
// Highlights one encoder in all figures and tables; sorts, filters and copies tables; shows what marks stand for.
(() => {
  const root = document.documentElement;
  const byId = (name) => document.getElementById(name);
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];
  const make = (tag, properties) => Object.assign(document.createElement(tag), properties);
  const say = (text) => { byId("said").textContent = text; };

  // A mark of a figure, or the name of an encoder in a table.
  const STOP = "svg [data-encoder], button.encoder";

  // --- One encoder everywhere -------------------------------------------------------------------
  const select = byId("highlight");
  for (const header of all("tr[data-encoder] > th:first-child")) {
    const button = make("button", { type: "button", className: "encoder" });
    button.append(...header.childNodes);
    header.append(button);
  }
  const marks = new Map();
  for (const mark of all("[data-encoder]")) {
    const label = mark.dataset.encoder;
    if (!marks.has(label)) marks.set(label, []);
    marks.get(label).push(mark);
  }

  function press(mark, chosen) {
    mark.classList.toggle("chosen", chosen);
    (mark.querySelector("button.encoder") || mark).setAttribute("aria-pressed", String(chosen));
  }
  function highlight(label) {
    for (const mark of marks.get(root.dataset.highlight) || []) press(mark, false);
    root.dataset.highlight = label;
    for (const mark of marks.get(label) || []) press(mark, true);
    select.value = label;
    byId("clear").disabled = !label;
    say(label ? `${label} is highlighted.` : "No encoder is highlighted.");
  }
  const toggle = (label) => highlight(label === root.dataset.highlight ? "" : label);

  select.addEventListener("change", () => highlight(select.value));
  byId("clear").addEventListener("click", () => highlight(""));
  document.addEventListener("click", (event) => {
    const mark = event.target.closest(STOP);
    if (mark) toggle(mark.closest("[data-encoder]").dataset.encoder);
  });

  // --- Keys: a figure or table is one stop of the tab key, arrows move within it -----------------
  const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };

  function stops(container) {
    return all(STOP, container).filter((stop) => !stop.closest("tr[hidden]"));
  }
  function firstStop(container) {
    stops(container).forEach((stop, place) => stop.setAttribute("tabindex", place ? "-1" : "0"));
  }
  for (const mark of all("svg [data-encoder]")) mark.setAttribute("role", "button");
  all("figure, .table").forEach(firstStop);

  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (byId("tip").hidden) highlight("");
      hideTip();
      return;
    }
    const stop = event.target.closest(STOP);
    if (!stop || event.ctrlKey || event.altKey || event.metaKey) return;
    if (stop.dataset.encoder && (event.key === "Enter" || event.key === " ")) {
      toggle(stop.dataset.encoder);  // a button does this itself
    } else if (event.key in STEPS) {
      const around = stops(stop.closest("figure, .table"));
      const next = around[(around.indexOf(stop) + STEPS[event.key] + around.length) % around.length];
      stop.setAttribute("tabindex", "-1");
      next.setAttribute("tabindex", "0");
      next.focus();
    } else {
      return;
    }
    event.preventDefault();
  });

  // --- Tooltips, by pointer and by focus ---------------------------------------------------------
  const tip = byId("tip");

  function showTip(mark) {
    tip.textContent = mark.getAttribute("aria-label").replaceAll("; ", "\n");
    tip.hidden = false;
    const place = mark.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(place.left, 8), root.clientWidth - size.width - 8);
    const above = place.top - size.height - 8;
    tip.style.left = `${Math.max(left, 8)}px`;
    tip.style.top = `${above > 0 ? above : place.bottom + 8}px`;
  }
  function hideTip() { tip.hidden = true; }

  const marked = (event) => event.target.closest?.("svg [data-encoder][aria-label]");
  for (const kind of ["mouseover", "focusin"]) {
    document.addEventListener(kind, (event) => marked(event) ? showTip(marked(event)) : hideTip());
  }
  document.addEventListener("focusout", hideTip);
  document.addEventListener("scroll", hideTip, true);

  // --- Tables ------------------------------------------------------------------------------------
  const order = new Intl.Collator("en", { numeric: true });
  const text = (cell) => cell.textContent.trim();
  const number = (cell) => cell.dataset.value === undefined ? NaN : Number(cell.dataset.value);

  // Cells without a number come last in both directions.
  function compare(a, b, direction) {
    const [x, y] = [number(a), number(b)];
    if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
    return direction * (Number.isNaN(x) ? order.compare(text(a), text(b)) : x - y);
  }

  function sortBy(table, header) {
    const column = header.cellIndex;
    const body = table.tBodies[0];
    const rows = [...body.rows];
    const numeric = rows.some((row) => row.cells[column].dataset.value !== undefined);
    const before = header.getAttribute("aria-sort");
    // Numbers start with the largest.
    const ascending = before ? before === "descending" : !numeric;
    all("th", table.tHead).forEach((other) => other.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    rows.sort((a, b) => compare(a.cells[column], b.cells[column], ascending ? 1 : -1));
    body.append(...rows);
    firstStop(table.closest(".table"));
    say(`Sorted by ${text(header)}, ${ascending ? "ascending" : "descending"}.`);
  }

  function filterBy(table, words, count) {
    const wanted = words.toLowerCase().split(/\s+/).filter(Boolean);
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      const content = row.textContent.toLowerCase();
      row.hidden = !wanted.every((word) => content.includes(word));
    }
    const shown = rows.filter((row) => !row.hidden).length;
    count.textContent = wanted.length ? `${shown} of ${rows.length} rows` : "";
    firstStop(table.closest(".table"));
  }

  // A text that starts like a formula is quoted, so that no spreadsheet evaluates it.
  function csvCell(cell) {
    const value = cell.dataset.value ?? text(cell);
    const safe = /^\s*[=+\-@]/.test(value) && Number.isNaN(Number(value)) ? `'${value}` : value;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  }
  function csv(table) {
    const rows = [...table.rows].filter((row) => !row.hidden);
    return rows.map((row) => [...row.cells].map(csvCell).join(",")).join("\n") + "\n";
  }

  async function copy(content) {
    try {
      await navigator.clipboard.writeText(content);
      return true;
    } catch {
      // Browsers without permission for the clipboard still copy what is selected.
      const area = make("textarea", { value: content, className: "unseen" });
      document.body.append(area);
      area.select();
      const copied = document.execCommand("copy");
      area.remove();
      return copied;
    }
  }

  function addTools(container) {
    const table = container.querySelector("table");
    const name = text(table.caption);
    const tools = make("div", { className: "tools" });
    const count = make("span", { role: "status" });
    count.setAttribute("role", "status");
    const filter = make("input", { type: "search", placeholder: "Filter rows" });
    filter.setAttribute("aria-label", `Filter rows: ${name}`);
    filter.addEventListener("input", () => filterBy(table, filter.value, count));
    const button = make("button", { type: "button", textContent: "Copy as CSV" });
    button.setAttribute("aria-label", `Copy as CSV: ${name}`);
    button.addEventListener("click", async () => {
      const copied = await copy(csv(table));
      count.textContent = copied ? "copied" : "the browser does not allow copying";
      button.focus();
    });
    tools.append(filter, button, count);
    container.prepend(tools);
    for (const header of table.tHead.rows[0].cells) {
      const sorter = make("button", { type: "button" });
      sorter.append(...header.childNodes);
      sorter.addEventListener("click", () => sortBy(table, header));
      header.append(sorter);
    }
  }
  all(".table").forEach(addTools);

  // --- Light and dark ----------------------------------------------------------------------------
  const scheme = byId("scheme");
  const prefersDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => root.dataset.scheme ? root.dataset.scheme === "dark" : prefersDark.matches;
  const showScheme = () => scheme.setAttribute("aria-pressed", String(isDark()));
  scheme.addEventListener("click", () => {
    root.dataset.scheme = isDark() ? "light" : "dark";
    showScheme();
  });
  prefersDark.addEventListener("change", showScheme);
  showScheme();

  byId("controls").hidden = false;
  highlight(root.dataset.highlight);
  say("");
})();
