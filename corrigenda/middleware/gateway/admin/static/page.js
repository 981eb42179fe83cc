"use strict";
// Everything that is shown goes through textContent: edits and questions are text, never markup.
const $ = (id) => document.getElementById(id);
const PAGE = 50;
let key = sessionStorage.getItem("corrigenda-key");
let namespace = "default";
let status = null;
let shown = 0;
let amended = null;

function make(tag, text, attributes = {}) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  return element;
}

async function call(method, path, { body, query } = {}) {
  const url = new URL("v1" + path, location.origin + "/admin/");
  for (const [name, value] of Object.entries(query ?? {})) if (value) url.searchParams.set(name, value);
  const headers = { authorization: "Bearer " + key };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const row = await answer.json();
  if (answer.ok) return row;
  const { message, remedy } = row.error;
  throw Object.assign(new Error(remedy ? `${message} ${remedy}` : message), { status: answer.status });
}

function later(work, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
}

// Signing in and out

async function enter() {
  status = await call("GET", "/status");
  sessionStorage.setItem("corrigenda-key", key);
  const spaces = status.namespaces.includes(status.default_namespace) || !status.key.namespaces.includes("*")
    ? status.namespaces : [status.default_namespace, ...status.namespaces];
  $("namespace").replaceChildren(...spaces.map((name) => make("option", name)));
  namespace = spaces.includes(status.default_namespace) ? status.default_namespace : spaces[0];
  $("namespace").value = namespace;
  for (const element of document.querySelectorAll(".editor")) element.hidden = status.key.role === "reader";
  $("answer").hidden = !status.local_model;
  for (const [id, inside] of [["enter", false], ["main", true], ["leave", true]]) $(id).hidden = !inside;
  document.querySelector(".space").hidden = false;
  await list();
  $("question").focus();
}

function leave() {
  sessionStorage.removeItem("corrigenda-key");
  location.reload();
}

// The edits

async function list(offset = 0) {
  const row = await call("GET", "/edits", { query: { namespace, q: $("search").value.trim(), limit: PAGE, offset: String(offset) } });
  const rows = row.edits.map(editRow);
  if (offset) $("edits").append(...rows); else $("edits").replaceChildren(...rows);
  shown = offset + rows.length;
  $("none").hidden = row.total > 0;
  $("count").textContent = row.total ? `${shown} of ${row.total}` : "";
  $("more").hidden = shown >= row.total;
  $("state").textContent = `ledger version ${row.version}`;
}

function editRow(edit) {
  const row = make("tr");
  const actions = make("td");
  actions.append(make("button", "History", { type: "button", onclick: () => history(edit) }));
  if (status.key.role !== "reader") {
    actions.append(" ", make("button", "Amend", { type: "button", onclick: () => openEditor(edit) }));
    actions.append(" ", make("button", "Retract", { type: "button", onclick: () => openRetract(edit) }));
  }
  row.append(make("td", edit.prompt), make("td", edit.target), make("td", edit.subject ?? ""), make("td", edit.author ?? ""), actions);
  return row;
}

async function history(edit) {
  const { events } = await call("GET", `/edits/${edit.id}/history`);
  $("events").replaceChildren(...events.map((event) => {
    const item = make("li");
    item.append(make("strong", event.kind), ` ${event.edit.prompt} → ${event.edit.target} `);
    item.append(make("span", [new Date(event.when).toLocaleString(), event.author, event.reason].filter(Boolean).join(" · "), { class: "quiet" }));
    return item;
  }));
  $("past").showModal();
}

// What fires

function considered(item) {
  const part = make("div");
  part.append(make("p", `“${item.query}”`));
  if (!item.candidates.length) { part.append(make("p", "No edit comes near it.", { class: "quiet" })); return part; }
  const table = make("table");
  for (const candidate of item.candidates) {
    const fires = candidate.verdict !== "out";
    const row = make("tr");
    const score = make("td");
    score.append(make("meter", null, { class: "score", min: 0, max: 1, value: candidate.probability, "aria-label": "probability" }));
    score.append(` ${candidate.probability.toFixed(3)} of ${candidate.threshold.toFixed(3)}`);
    row.append(make("td", fires ? "fires" : "does not fire", { class: fires ? "fires" : "quiet" }), make("td", candidate.statement), score);
    row.append(make("td", Object.entries(candidate.features).map(([name, value]) => `${name} ${value.toFixed(2)}`).join("  "), { class: "quiet" }));
    table.append(row);
  }
  part.append(table);
  return part;
}

async function explain(event) {
  event.preventDefault();
  $("answers").replaceChildren();
  const row = await call("POST", "/explain", { body: { namespace, queries: [$("question").value] } });
  $("explained").replaceChildren(...row.considered.map(considered));
}

async function ask() {
  if (!$("ask").reportValidity()) return;
  $("answers").replaceChildren(make("p", "The model is thinking…", { class: "quiet" }));
  const row = await call("POST", "/ask", { body: { namespace, prompt: $("question").value, max_tokens: 24 } });
  const table = make("table");
  for (const [when, text] of [["before", row.before], ["after", row.after]]) {
    const line = make("tr");
    line.append(make("th", when, { scope: "row" }), make("td", text.trim()));
    table.append(line);
  }
  $("answers").replaceChildren(table);
}

// Adding, amending, retracting

function fields() {
  const form = new FormData($("edit"));
  const row = { on_conflict: form.get("on_conflict") };
  for (const name of ["prompt", "target", "subject", "relation", "source"]) if (form.get(name).trim()) row[name] = form.get(name).trim();
  const aliases = form.get("aliases").split("\n").map((line) => line.trim()).filter(Boolean);
  if (aliases.length || amended?.aliases) row.aliases = aliases;
  return row;
}

const preview = later(async () => {
  const row = fields();
  if (!row.prompt || !row.target) { $("preview").replaceChildren(make("p", "Fill in prompt and answer.", { class: "quiet" })); return; }
  const queries = $("tries").value.split("\n").map((line) => line.trim()).filter(Boolean).slice(0, 20);
  try {
    const { considered: items, contradicts } = await call("POST", "/preview", { body: { ...row, on_conflict: undefined, namespace, queries: queries.length ? queries : [row.prompt] } });
    const others = contradicts.filter((other) => other.id !== amended?.id);
    $("preview").replaceChildren(...others.map((other) => make("p", `Contradicts: ${other.statement}`, { class: "error" })), ...items.map(considered));
  } catch (error) {
    $("preview").replaceChildren(make("p", error.message, { class: "error" }));
  }
}, 350);

function openEditor(edit = null) {
  amended = edit;
  $("edit").reset();
  $("tries").value = "";
  $("preview").replaceChildren();
  $("edit-error").textContent = "";
  $("editor-title").textContent = edit ? "Amend the edit" : "New edit";
  for (const name of ["prompt", "target", "subject", "relation", "source"]) $("edit").elements[name].value = edit?.[name] ?? "";
  $("edit").elements.aliases.value = (edit?.aliases ?? []).join("\n");
  $("editor").showModal();
  if (edit) preview();
}

async function save(event) {
  event.preventDefault();
  try {
    if (amended) await call("PATCH", `/edits/${amended.id}`, { body: fields() });
    else await call("POST", "/edits", { body: { ...fields(), namespace } });
    $("editor").close();
    await list();
  } catch (error) {
    $("edit-error").textContent = error.message;
  }
}

function openRetract(edit) {
  amended = edit;
  $("retracting").reset();
  $("retract-error").textContent = "";
  $("retracted").textContent = edit.statement;
  $("retract").showModal();
}

async function retract(event) {
  event.preventDefault();
  try {
    await call("DELETE", `/edits/${amended.id}`, { query: { reason: $("retracting").elements.reason.value.trim() } });
    $("retract").close();
    await list();
  } catch (error) {
    $("retract-error").textContent = error.message;
  }
}

// Wiring

function guarded(work) {
  return (...given) => Promise.resolve(work(...given)).catch((error) => {
    if (error.status === 401) { leave(); return; }
    $("state").textContent = error.message;
  });
}

$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  key = $("key").value.trim();
  try { await enter(); } catch (error) { $("enter-error").textContent = error.message; }
});
$("leave").addEventListener("click", leave);
$("namespace").addEventListener("change", guarded(() => { namespace = $("namespace").value; return list(); }));
$("search").addEventListener("input", later(guarded(() => list()), 200));
$("more").addEventListener("click", guarded(() => list(shown)));
$("new").addEventListener("click", () => openEditor());
$("ask").addEventListener("submit", guarded(explain));
$("answer").addEventListener("click", guarded(ask));
$("edit").addEventListener("submit", save);
$("edit").addEventListener("input", preview);
$("retracting").addEventListener("submit", retract);
for (const button of document.querySelectorAll(".close")) button.addEventListener("click", () => button.closest("dialog").close());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("main").hidden || document.querySelector("dialog[open]")) return;
  if (event.target.closest("input, textarea, select")) return;
  if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  if (event.key === "n" && status.key.role !== "reader") { event.preventDefault(); openEditor(); }
});
$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("corrigenda-theme", root.dataset.theme);
});
const theme = localStorage.getItem("corrigenda-theme");
if (theme) document.documentElement.dataset.theme = theme;
if (key) enter().catch(() => sessionStorage.removeItem("corrigenda-key"));
