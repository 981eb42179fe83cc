// Jobs: consolidation runs, calibration, and how far they are.
import { $, call, confirm, lines, make, may, session } from "./session.js";

let timer = null;

export async function show() {
  clearTimeout(timer);
  const { namespace, status } = session;
  $("consolidation-off").hidden = status.consolidation;
  $("consolidate").hidden = !status.consolidation || !may("admin");
  const [{ jobs, threshold }, { runs }] = await Promise.all([
    call("GET", "/jobs", { query: { namespace } }),
    status.consolidation ? call("GET", "/consolidations", { query: { namespace } }) : { runs: [] },
  ]);
  $("threshold").textContent = threshold.toFixed(3);
  $("runs").replaceChildren(...runs.map(runRow));
  $("jobs").replaceChildren(...jobs.map(jobItem));
  $("jobs-none").hidden = jobs.length > 0;
  // What runs is looked at again; what is over does not change.
  if (jobs.some((job) => !job.ended) && !$("view-jobs").hidden) timer = setTimeout(() => show().catch(() => {}), 1000);
}

function jobItem(job) {
  const item = make("li");
  item.append(make("strong", job.kind), ` ${job.state}`, make("span", ` · ${job.author} · ${new Date(job.created).toLocaleString()} `, { class: "quiet" }));
  if (!job.ended && may("admin")) {
    item.append(make("button", "Stop", { type: "button", onclick: () => call("DELETE", `/jobs/${job.id}`).then(show) }));
  }
  if (!job.ended && job.lines.length) item.append(make("pre", job.lines.at(-1)));
  if (job.error) item.append(make("p", job.error, { class: "error" }));
  if (job.result) item.append(make("pre", described(job)));
  return item;
}

function described({ kind, result }) {
  if (kind !== "calibrate") return JSON.stringify(result, null, 1);
  if (result.threshold === null) return `${result.queries} queries are too few to bound a rate of ${result.rate}.`;
  const share = (100 * result.now.rate).toFixed(2);
  return `Threshold ${result.threshold.toFixed(4)} bounds false fires at ${result.rate}; ${result.now.threshold.toFixed(4)} fires on ${share} % of these queries.${result.applied ? " It is in use now." : ""}`;
}

function runRow(run) {
  const row = make("tr");
  const actions = make("td", null, { class: "actions" });
  if (may("admin") && run.revertible) actions.append(make("button", "Roll back", { type: "button", onclick: () => back(run) }));
  row.append(make("td", run.id), make("td", run.state), make("td", run.edits), make("td", run.summary, { class: "quiet" }), actions);
  return row;
}

export function consolidate() {
  const text = "The live edits of this namespace are printed into a copy of the weights, tested, and promoted only if every gate is passed.";
  confirm({ title: "Print edits into the weights?", text, label: "Editor; empty for the one that suits the model", yes: "Begin" }, async (editor) => {
    await call("POST", "/consolidations", { body: editor ? { namespace: session.namespace, editor } : { namespace: session.namespace } });
    await show();
  });
}

function back(run) {
  confirm({ title: "Roll this run back?", text: `${run.id}: ${run.summary}`, label: "Why", yes: "Roll back" }, async () => {
    await call("DELETE", `/consolidations/${encodeURIComponent(run.id)}`, { query: { namespace: session.namespace } });
    await show();
  });
}

export async function calibrate(event) {
  event.preventDefault();
  const body = { namespace: session.namespace, queries: lines($("outside").value), rate: Number($("rate").value) };
  if ($("apply").checked) body.apply = true;
  await call("POST", "/calibrate", { body });
  await show();
}
