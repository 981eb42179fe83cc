// The ledger: every event of the namespace, and the way back to any of them.
import { $, call, confirm, make, may, session } from "./session.js";
import { eventLine } from "./edits.js";

let next = null;

export async function show(before = null) {
  const row = await call("GET", "/events", { query: { namespace: session.namespace, limit: 50, before } });
  const rows = row.events.map(eventRow);
  if (before) $("ledger").append(...rows); else $("ledger").replaceChildren(...rows);
  $("ledger-none").hidden = $("ledger").childElementCount > 0;
  next = row.next;
  $("older").hidden = !next;
  $("state").textContent = `ledger version ${row.version}`;
}

export const older = () => show(next);

function eventRow(event) {
  const row = make("tr");
  const actions = make("td", null, { class: "actions" });
  if (may("admin")) actions.append(make("button", "Roll back to here", { type: "button", onclick: () => back(event) }));
  row.append(make("td", event.seq), make("td", event.kind), make("td", `${event.edit.prompt} → ${event.edit.target}`), make("td", eventLine(event), { class: "quiet" }), actions);
  return row;
}

function back(event) {
  const text = `The edits become what they were right after version ${event.seq}: ${event.kind} “${event.edit.prompt} → ${event.edit.target}”.`;
  confirm({ title: `Roll back to version ${event.seq}?`, text, label: "Why", yes: "Roll back" }, async (reason) => {
    const body = { namespace: session.namespace, version: event.seq };
    if (reason) body.reason = reason;
    const done = await call("POST", "/rollback", { body });
    await show();
    $("state").textContent = `${done.retracted} retracted, ${done.restored} restored`;
  });
}
