// Shows what /stream tells. All data becomes text nodes, never markup.
"use strict";

// Rows in the document per table. Further ones are counted, not drawn: filter to see them.
const MAX_DRAWN = 500;
const TYPING_PAUSE = 300;
const TRY_AGAIN = 5000;
const GOOD = new Set(["Running", "Ready", "Available", "Active", "Bound", "Scheduled"]);
const DONE = new Set(["Completed", "Complete", "Succeeded", "Normal"]);
const WAITING = /^(Progressing|Scaling|Paused|Suspended|Pending|ContainerCreating|PodInitializing|Terminating|SchedulingGated|Init:\d+\/\d+|Ready,SchedulingDisabled|Warning)$/;

// Kinds of workloads, in the order in which they are shown beside each other, and what several are called.
const KINDS = new Map([
  ["Deployment", "Deployments"], ["StatefulSet", "StatefulSets"], ["DaemonSet", "DaemonSets"],
  ["ReplicaSet", "ReplicaSets"], ["ReplicationController", "ReplicationControllers"], ["CronJob", "CronJobs"],
  ["Job", "Jobs"], ["HorizontalPodAutoscaler", "Autoscalers"], ["PersistentVolumeClaim", "Claims"],
]);
const RANK = new Map([...KINDS.keys()].map((kind, rank) => [kind, rank]));

const byId = (id) => document.getElementById(id);
const tables = new Map();
let source = null;
let timer = 0;
let kindShown = ""; // Of workloads; empty for all.
let clockOffset = 0; // The server's clock minus ours, in milliseconds.

for (const element of document.querySelectorAll("table[data-table]")) {
  const columns = [...element.querySelectorAll("th")].map((th) => {
    th.scope = "col";
    return { label: th.textContent.trim(), as: th.dataset.as || "text" };
  });
  element.setAttribute("role", "table");
  tables.set(element.dataset.table, { columns, body: element.tBodies[0], rows: new Map() });
}
tables.set("namespaces", { rows: new Map() });

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function mood(status) {
  if (GOOD.has(status)) return "good";
  if (DONE.has(status)) return "done";
  return WAITING.test(status) ? "waiting" : "bad";
}

// Kubernetes' way to write a duration: two figures at most.
function duration(seconds) {
  const [m, h, d, y] = [60, 3600, 86400, 31536000];
  const pair = (big, bigUnit, small, unit) => big + bigUnit + (small ? small + unit : "");
  const s = Math.max(0, Math.floor(seconds));
  const whole = (unit) => Math.floor(s / unit);
  if (s < 2 * m) return s + "s";
  if (s < 10 * m) return pair(whole(m), "m", s % m, "s");
  if (s < 3 * h) return whole(m) + "m";
  if (s < 8 * h) return pair(whole(h), "h", whole(m) % 60, "m");
  if (s < 2 * d) return whole(h) + "h";
  if (s < 8 * d) return pair(whole(d), "d", whole(h) % 24, "h");
  if (s < 2 * y) return whole(d) + "d";
  return s < 8 * y ? pair(whole(y), "y", whole(d) % 365, "d") : whole(y) + "y";
}

const age = (since) => (since === null ? "" : duration((Date.now() + clockOffset) / 1000 - since));

// A word of several humps may break between them.
function humps(word) {
  return word.split(/(?=[A-Z])/).flatMap((hump, index) => (index ? [make("wbr"), hump] : [hump]));
}

function since(seconds) {
  const time = make("time", "", age(seconds));
  if (seconds !== null) time.dataset.since = seconds;
  return time;
}

// How a cell of each sort is drawn.
const draw = {
  text: (value) => [String(value ?? "")],
  name: (value) => [make("strong", "", value)],
  code: (value) => [make("code", "", value)],
  message: (value) => [make("span", "message", value)],
  status: (value) => [make("span", "pill " + mood(value), value)],
  ready: (value) => {
    const [ready, all] = value.split("/").map(Number);
    return [make("span", ready < all ? "figure short" : "figure", value)];
  },
  meter: ([count, most]) => {
    const text = make("span", "figure", most === null ? count : `${count}/${most}`);
    if (!most) return [text];
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: most, high: most * 0.9, value: count });
    meter.setAttribute("aria-hidden", "true");
    return [text, meter];
  },
  // A meter that is good when it is full.
  share: (value) => {
    if (!value) return [];
    const [ready, all] = value;
    const text = make("span", ready < all ? "figure short" : "figure", all === null ? ready : `${ready}/${all}`);
    if (!all) return [text];
    const meter = make("meter");
    Object.assign(meter, { min: 0, max: all, low: all, high: all, optimum: all, value: ready });
    meter.setAttribute("aria-hidden", "true");
    return [text, meter];
  },
  kind: (value) => humps(value),
  details: (value) =>
    value.map((part) => {
      if (typeof part === "string") return make("span", "part", part);
      const element = make("span", "part", part.said);
      element.append(" ", since(part.at), " ago");
      return element;
    }),
  images: (value) => value.map((image) => make("code", "", image)),
  containers: (value) =>
    value.map(([name, image, ready]) => {
      const chip = make("span", ready ? "chip on" : "chip", name);
      chip.title = `${image ?? ""} (${ready ? "ready" : "not ready"})`;
      return chip;
    }),
  age: (value) => [since(value)],
};

function drawRow(table, row) {
  if (!row.element) {
    row.element = make("tr");
    row.element.setAttribute("role", "row");
    row.drawn = [];
    for (const column of table.columns) {
      const cell = make("td", column.as);
      cell.setAttribute("role", "cell");
      cell.dataset.label = column.label;
      row.element.append(cell);
    }
  }
  row.element.classList.toggle("child", Boolean(row.child));
  const fresh = row.drawn.length > 0;
  table.columns.forEach((column, index) => {
    const text = JSON.stringify(row.cells[index]);
    if (row.drawn[index] === text) return;
    row.drawn[index] = text;
    const cell = row.element.cells[index];
    cell.replaceChildren(...draw[column.as](row.cells[index]));
    if (fresh) flash(cell);
  });
}

function flash(element) {
  if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
  element.animate([{ backgroundColor: "color-mix(in srgb, var(--accent) 28%, transparent)" }, {}], 1200);
}

// The order of the rows, by their keys; the tables that are not named here are in the order of their keys.
const arrange = {
  events: (rows) => [...rows.keys()].sort((a, b) => rows.get(b).cells[0] - rows.get(a).cells[0]),
  // Below a workload what belongs to it, the newest first.
  workloads: (rows) => {
    const place = new Map();
    for (const [key, row] of rows) {
      const [namespace, kind, name, , , , , created, owner] = row.cells;
      place.set(`${namespace}/${kind}/${name}`, { key, row, namespace, kind, name, created, owner });
    }
    const all = [...place.values()].filter(({ kind }) => !kindShown || kind === kindShown);
    for (const one of all) {
      const owner = kindShown ? undefined : place.get(`${one.namespace}/${one.owner}`);
      one.row.child = owner !== undefined;
      one.root = owner ?? one;
    }
    const compare = (a, b) => (a < b ? -1 : Number(a > b));
    all.sort((a, b) =>
      compare(a.namespace, b.namespace) || compare(a.root.name, b.root.name) ||
      RANK.get(a.root.kind) - RANK.get(b.root.kind) || a.row.child - b.row.child ||
      RANK.get(a.kind) - RANK.get(b.kind) || b.created - a.created || compare(a.name, b.name));
    return all.map(({ key }) => key);
  },
};

function drawTable(name, table, flashNew) {
  const keys = arrange[name]?.(table.rows) ?? [...table.rows.keys()].sort();
  let next = table.body.firstElementChild;
  for (const key of keys.slice(0, MAX_DRAWN)) {
    const row = table.rows.get(key);
    const isNew = !row.element;
    drawRow(table, row);
    if (row.element === next) next = next.nextElementSibling;
    else table.body.insertBefore(row.element, next);
    if (isNew && flashNew) flash(row.element);
  }
  while (next) {
    const after = next.nextElementSibling;
    next.remove();
    next = after;
  }
  const rest = keys.length - MAX_DRAWN;
  if (keys.length === 0) addNote(table, "Nothing here.");
  if (rest > 0) addNote(table, `${rest} more: filter to see them.`);
}

function addNote(table, text) {
  const row = make("tr", "note");
  const cell = make("td", "", text);
  cell.colSpan = table.columns.length;
  row.append(cell);
  table.body.append(row);
}

function summarize() {
  const rows = (name) => [...tables.get(name).rows.values()].map((row) => row.cells);
  const short = (cell) => { const [ready, all] = cell.split("/").map(Number); return ready < all; };
  const tell = (name, few, note) => {
    const all = rows(name);
    const count = all.filter(few).length;
    byId(name + "-count").textContent = all.length;
    const text = byId(name + "-note");
    const words = (count === 1 && note[2]) || note[1];
    text.textContent = all.length === 0 ? "" : count === 0 ? note[0] : `${count} ${words}`;
    text.className = count > 0 ? "short" : "";
  };
  tell("nodes", (cells) => !cells[1].startsWith("Ready"), ["all ready", "not ready"]);
  const unwell = ([, , ready, status]) => mood(status) === "good" ? short(ready) : mood(status) !== "done";
  tell("pods", unwell, ["all well", "not well"]);
  tell("services", (cells) => /^0\/|\/0$/.test(cells[5]), ["all reachable", "without endpoints"]);
  const stopped = new Set(["Paused", "Suspended"]);
  const unready = (state) => !stopped.has(state) && !["good", "done"].includes(mood(state));
  tell("workloads", (cells) => unready(cells[4]), ["all well", "not ready"]);
  tell("events", (cells) => cells[2] === "Warning", ["no warnings", "warnings", "warning"]);
}

// Buttons to see one kind of workloads alone.
function drawKinds() {
  const counts = new Map();
  const rows = tables.get("workloads").rows;
  for (const { cells } of rows.values()) counts.set(cells[1], (counts.get(cells[1]) ?? 0) + 1);
  if (kindShown && !counts.has(kindShown)) counts.set(kindShown, 0);
  const kinds = ["", ...[...counts.keys()].sort((a, b) => RANK.get(a) - RANK.get(b))];
  const group = byId("kinds");
  group.hidden = kinds.length < 3;
  const known = new Map([...group.children].map((button) => [button.value, button]));
  let next = group.firstElementChild;
  for (const kind of kinds) {
    const button = known.get(kind) ?? make("button");
    known.delete(kind);
    Object.assign(button, { type: "button", value: kind });
    const label = `${kind ? KINDS.get(kind) : "All"} ${kind ? counts.get(kind) : rows.size}`;
    if (button.textContent !== label) button.textContent = label;
    button.setAttribute("aria-pressed", String(kind === kindShown));
    if (button === next) next = next.nextElementSibling;
    else group.insertBefore(button, next);
  }
  for (const button of known.values()) button.remove();
}

function drawNamespaces() {
  const select = byId("namespace");
  const chosen = select.value;
  const names = new Set(tables.get("namespaces").rows.keys());
  if (chosen) names.add(chosen);
  const options = [...names].sort().map((name) => new Option(name, name, false, name === chosen));
  select.replaceChildren(new Option("All namespaces", "", false, !chosen), ...options);
}

function apply(update) {
  clockOffset = update.now * 1000 - Date.now();
  for (const [name, table] of tables) {
    const changes = update.tables[name];
    if (update.complete) table.rows.clear();
    else if (!changes) continue;
    for (const key of changes?.gone ?? []) table.rows.delete(key);
    for (const [key, cells] of Object.entries(changes?.put ?? {})) {
      const row = table.rows.get(key);
      if (row) row.cells = cells;
      else table.rows.set(key, { cells });
    }
    if (table.body) drawTable(name, table, !update.complete);
    else drawNamespaces();
  }
  drawKinds();
  summarize();
}

function say(state, text) {
  const element = byId("state");
  element.className = state;
  if (element.textContent !== text) element.textContent = text;
}

function complain(text) {
  byId("wrong").textContent = text;
  byId("wrong").hidden = !text;
  byId("selector").setAttribute("aria-invalid", text ? "true" : "false");
}

function connect() {
  clearTimeout(timer);
  source?.close();
  const wanted = new URLSearchParams();
  for (const id of ["namespace", "selector"]) if (byId(id).value) wanted.set(id, byId(id).value);
  history.replaceState(null, "", wanted.size ? "?" + wanted : location.pathname);
  const stream = new EventSource("/stream?" + wanted);
  source = stream;
  stream.onmessage = (event) => {
    say("live", "Live");
    complain("");
    apply(JSON.parse(event.data));
  };
  stream.addEventListener("refused", (event) => {
    stream.close();
    const { message, again } = JSON.parse(event.data);
    say("lost", again ? message : "Paused");
    complain(again ? "" : message);
    if (again) timer = setTimeout(connect, TRY_AGAIN);
  });
  stream.onerror = () => {
    const closed = stream.readyState === EventSource.CLOSED;
    say("lost", closed ? "Locked: open the URL that this start of the cluster printed" : "Connection lost, trying again…");
  };
}

function later() {
  clearTimeout(timer);
  timer = setTimeout(connect, TYPING_PAUSE);
}

const wanted = new URLSearchParams(location.search);
byId("selector").value = wanted.get("selector") ?? "";
if (wanted.get("namespace")) byId("namespace").add(new Option(wanted.get("namespace"), wanted.get("namespace"), false, true));
byId("selector").addEventListener("input", later);
byId("namespace").addEventListener("change", connect);
byId("filter").addEventListener("submit", (event) => {
  event.preventDefault();
  connect();
});
byId("kinds").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  kindShown = button.value;
  drawKinds();
  drawTable("workloads", tables.get("workloads"), false);
});
// A page in the background gives its place away.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) source?.close();
  else connect();
});
setInterval(() => {
  for (const time of document.querySelectorAll("time[data-since]")) {
    const text = age(Number(time.dataset.since));
    if (time.textContent !== text) time.textContent = text;
  }
}, 1000);
connect();
