// The page itself: signing in and out, the views, the keyboard, the theme.
import * as charts from "./charts.js";
import * as edits from "./edits.js";
import * as jobs from "./jobs.js";
import * as ledger from "./ledger.js";
import { $, call, guarded, later, leave, may, session } from "./session.js";

const VIEWS = { edits, ledger, activity: charts, jobs };
let view = "edits";

async function enter() {
  session.status = await call("GET", "/status");
  const { status } = session;
  sessionStorage.setItem("corrigenda-key", session.key);
  const spaces = status.namespaces.includes(status.default_namespace) || !status.key.namespaces.includes("*")
    ? status.namespaces : [status.default_namespace, ...status.namespaces];
  $("namespace").replaceChildren(...spaces.map((name) => Object.assign(document.createElement("option"), { textContent: name })));
  session.namespace = spaces.includes(status.default_namespace) ? status.default_namespace : spaces[0];
  $("namespace").value = session.namespace;
  for (const role of ["editor", "admin"]) for (const element of document.querySelectorAll("." + role)) element.hidden = !may(role);
  for (const [id, inside] of [["enter", false], ["main", true], ["leave", true]]) $(id).hidden = !inside;
  document.querySelector(".space").hidden = false;
  await VIEWS[view].show();
  $("question").focus();
}

async function open(name) {
  view = name;
  for (const other of Object.keys(VIEWS)) {
    const chosen = other === name;
    $("view-" + other).hidden = !chosen;
    $("tab-" + other).setAttribute("aria-selected", String(chosen));
    $("tab-" + other).tabIndex = chosen ? 0 : -1;
  }
  if (name === "jobs") session.status = await call("GET", "/status");
  await VIEWS[name].show();
}

for (const name of Object.keys(VIEWS)) $("tab-" + name).addEventListener("click", guarded(() => open(name)));
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const names = Object.keys(VIEWS);
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (!step) return;
  const name = names[(names.indexOf(view) + step + names.length) % names.length];
  $("tab-" + name).focus();
  guarded(() => open(name))();
});

$("enter").addEventListener("submit", async (event) => {
  event.preventDefault();
  session.key = $("key").value.trim();
  try { await enter(); } catch (error) { $("enter-error").textContent = error.message; }
});
$("leave").addEventListener("click", leave);
$("namespace").addEventListener("change", guarded(() => { session.namespace = $("namespace").value; return VIEWS[view].show(); }));
$("search").addEventListener("input", later(guarded(() => edits.list()), 200));
$("more").addEventListener("click", guarded(edits.more));
$("new").addEventListener("click", () => edits.openEditor());
$("ask").addEventListener("submit", guarded(edits.explain));
$("answer").addEventListener("click", guarded(edits.ask));
$("clarify").addEventListener("click", guarded(edits.clarify));
$("edit").addEventListener("submit", edits.save);
$("edit").addEventListener("input", edits.preview);
$("try-answers").addEventListener("click", guarded(edits.tryAnswers));
$("older").addEventListener("click", guarded(ledger.older));
$("consolidate").addEventListener("click", guarded(jobs.consolidate));
$("calibrate").addEventListener("submit", guarded(jobs.calibrate));
for (const button of document.querySelectorAll(".close")) button.addEventListener("click", () => button.closest("dialog").close());

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || $("main").hidden || document.querySelector("dialog[open]")) return;
  if (view !== "edits" || event.target.closest("input, textarea, select")) return;
  if (event.key === "/") { event.preventDefault(); $("search").focus(); }
  if (event.key === "n" && may("editor")) { event.preventDefault(); edits.openEditor(); }
});

$("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("corrigenda-theme", root.dataset.theme);
});
const theme = localStorage.getItem("corrigenda-theme");
if (theme) document.documentElement.dataset.theme = theme;
if (session.key) enter().catch(() => sessionStorage.removeItem("corrigenda-key"));
