// The edits: what would fire, the list, adding, amending, retracting, their history and conflicts.
import { $, call, confirm, later, lines, make, may, session, when } from "./session.js";

const PAGE = 50;
let shown = 0;
let amended = null;

export async function show() {
  await Promise.all([list(), conflicts()]);
}

export async function list(offset = 0) {
  const { namespace } = session;
  const row = await call("GET", "/edits", { query: { namespace, q: $("search").value.trim(), limit: PAGE, offset: String(offset) } });
  const rows = row.edits.map(editRow);
  if (offset) $("edits").append(...rows); else $("edits").replaceChildren(...rows);
  shown = offset + rows.length;
  $("none").hidden = row.total > 0;
  $("count").textContent = row.total ? `${shown} of ${row.total}` : "";
  $("more").hidden = shown >= row.total;
  $("state").textContent = `ledger version ${row.version}`;
}

export const more = () => list(shown);

function editRow(edit) {
  const row = make("tr");
  const actions = make("td", null, { class: "actions" });
  actions.append(make("button", "History", { type: "button", onclick: () => history(edit) }));
  if (may("editor")) {
    actions.append(" ", make("button", "Amend", { type: "button", onclick: () => openEditor(edit) }));
    actions.append(" ", make("button", "Retract", { type: "button", onclick: () => openRetract(edit) }));
  }
  row.append(make("td", edit.prompt), make("td", edit.target), make("td", edit.subject ?? ""), make("td", edit.author ?? ""), actions);
  return row;
}

async function conflicts() {
  const { conflicts: groups } = await call("GET", "/conflicts", { query: { namespace: session.namespace } });
  $("conflicts").hidden = groups.length === 0;
  $("conflict-list").replaceChildren(...groups.map((group) => {
    const item = make("li", group[0].prompt);
    const answers = make("ul");
    for (const edit of group) {
      const line = make("li", `${edit.target} `);
      line.append(make("span", edit.author ?? "", { class: "quiet" }), " ");
      if (may("editor")) line.append(make("button", "Retract", { type: "button", onclick: () => openRetract(edit) }));
      answers.append(line);
    }
    item.append(answers);
    return item;
  }));
}

export function eventLine(event) {
  return [when(event.when), event.author, event.reason].filter(Boolean).join(" · ");
}

async function history(edit) {
  const { events } = await call("GET", `/edits/${edit.id}/history`);
  $("events").replaceChildren(...events.map((event) => {
    const item = make("li");
    item.append(make("strong", event.kind), ` ${event.edit.prompt} → ${event.edit.target} `);
    item.append(make("span", eventLine(event), { class: "quiet" }));
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
    const score = make("td", null, { class: "number" });
    score.append(make("meter", null, { class: "score", min: 0, max: 1, value: candidate.probability, "aria-label": "probability" }));
    score.append(` ${candidate.probability.toFixed(3)} of ${candidate.threshold.toFixed(3)}`);
    const what = make("td", candidate.statement);
    what.append(grounds(candidate));
    row.append(make("td", fires ? "fires" : "does not fire", { class: `verdict ${fires ? "fires" : "quiet"}` }), what, score);
    table.append(row);
  }
  part.append(table);
  return part;
}

// Why: similarity, the name that was found, and what the judge went by, zeros left out.
function grounds(candidate) {
  const part = make("details");
  const list = make("ul", null, { class: "grounds" });
  const shown = Object.entries(candidate.features).filter(([, value]) => Math.abs(value) >= 0.005);
  const rows = [["similarity", candidate.similarity], ...shown].map(([name, value]) => `${name} ${value.toFixed(2)}`);
  if (candidate.mention) rows.unshift(`names “${candidate.mention}”`);
  list.append(...rows.map((text) => make("li", text)));
  part.append(make("summary", "why"), list);
  return part;
}

function beforeAfter({ before, after }) {
  const table = make("table");
  for (const [name, text] of [["before", before], ["after", after]]) {
    const line = make("tr");
    line.append(make("th", name, { scope: "row" }), make("td", text.trim()));
    table.append(line);
  }
  return table;
}

const thinking = () => make("p", "The model is thinking…", { class: "quiet" });

export async function explain(event) {
  event.preventDefault();
  $("answers").replaceChildren();
  const row = await call("POST", "/explain", { body: { namespace: session.namespace, queries: [$("question").value] } });
  $("explained").replaceChildren(...row.considered.map(considered));
}

export async function ask() {
  if (!$("ask").reportValidity()) return;
  $("answers").replaceChildren(thinking());
  try {
    const row = await call("POST", "/ask", { body: { namespace: session.namespace, prompt: $("question").value, max_tokens: 24 } });
    $("answers").replaceChildren(beforeAfter(row));
  } catch (error) {
    $("answers").replaceChildren(make("p", error.message, { class: "error" }));
  }
}

export function clarify() {
  if (!$("ask").reportValidity()) return;
  const query = $("question").value;
  confirm({ title: "How is it meant?", text: query, label: "Clarification", yes: "Keep", required: true }, async (clarification) => {
    await call("POST", "/feedback", { body: { namespace: session.namespace, query, clarification } });
    await show();
  });
}

// Adding, amending, retracting

function fields() {
  const form = new FormData($("edit"));
  const row = { on_conflict: form.get("on_conflict") };
  for (const name of ["prompt", "target", "subject", "relation", "source"]) if (form.get(name).trim()) row[name] = form.get(name).trim();
  const aliases = lines(form.get("aliases"));
  if (aliases.length || amended?.aliases) row.aliases = aliases;
  return row;
}

async function tried(more = {}) {
  const row = fields();
  if (!row.prompt || !row.target) return null;
  const queries = lines($("tries").value).slice(0, 20);
  const body = { ...row, ...more, on_conflict: undefined, namespace: session.namespace, queries: queries.length ? queries : [row.prompt] };
  return call("POST", "/preview", { body });
}

export const preview = later(async () => {
  try {
    const row = await tried();
    if (!row) { $("preview").replaceChildren(make("p", "Fill in prompt and answer.", { class: "quiet" })); return; }
    const others = row.contradicts.filter((other) => other.id !== amended?.id);
    $("preview").replaceChildren(...others.map((other) => make("p", `Contradicts: ${other.statement}`, { class: "error" })), ...row.considered.map(considered));
  } catch (error) {
    $("preview").replaceChildren(make("p", error.message, { class: "error" }));
  }
}, 350);

export async function tryAnswers() {
  $("preview-answers").replaceChildren(thinking());
  try {
    const row = await tried({ answers: true });
    if (!row) { $("preview-answers").replaceChildren(make("p", "Fill in prompt and answer.", { class: "quiet" })); return; }
    $("preview-answers").replaceChildren(make("p", `“${row.answers.query}”`), beforeAfter(row.answers));
  } catch (error) {
    $("preview-answers").replaceChildren(make("p", error.message, { class: "error" }));
  }
}

export function openEditor(edit = null) {
  amended = edit;
  $("edit").reset();
  $("tries").value = "";
  $("preview").replaceChildren();
  $("preview-answers").replaceChildren();
  $("edit-error").textContent = "";
  $("editor-title").textContent = edit ? "Amend the edit" : "New edit";
  for (const name of ["prompt", "target", "subject", "relation", "source"]) $("edit").elements[name].value = edit?.[name] ?? "";
  $("edit").elements.aliases.value = (edit?.aliases ?? []).join("\n");
  $("editor").showModal();
  if (edit) preview();
}

export async function save(event) {
  event.preventDefault();
  try {
    if (amended) await call("PATCH", `/edits/${amended.id}`, { body: fields() });
    else await call("POST", "/edits", { body: { ...fields(), namespace: session.namespace } });
    $("editor").close();
    await show();
  } catch (error) {
    $("edit-error").textContent = error.message;
  }
}

function openRetract(edit) {
  confirm({ title: "Retract this edit?", text: edit.statement, label: "Why", yes: "Retract" }, async (reason) => {
    await call("DELETE", `/edits/${edit.id}`, { query: { reason } });
    await show();
  });
}
