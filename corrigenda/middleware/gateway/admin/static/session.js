// What all parts of the page share: who is signed in, how the API is called, and how elements are made.
// Everything that is shown goes through textContent: edits and questions are text, never markup.
export const session = { key: sessionStorage.getItem("corrigenda-key"), namespace: "default", status: null };

export const $ = (id) => document.getElementById(id);

export function make(tag, text, attributes = {}) {
  const element = tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.slice(4)) : document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  return element;
}

export async function call(method, path, { body, query } = {}) {
  const url = new URL("v1" + path, location.origin + "/admin/");
  for (const [name, value] of Object.entries(query ?? {})) if (value) url.searchParams.set(name, value);
  const headers = { authorization: "Bearer " + session.key };
  if (body) headers["content-type"] = "application/json";
  const answer = await fetch(url, { method, headers, body: body && JSON.stringify(body) });
  const row = await answer.json();
  if (answer.ok) return row;
  const { message, remedy } = row.error;
  throw Object.assign(new Error(remedy ? `${message} ${remedy}` : message), { status: answer.status });
}

export const may = (role) => ["reader", "editor", "admin"].indexOf(session.status.key.role) >= ["reader", "editor", "admin"].indexOf(role);

export function later(work, wait) {
  let timer;
  return (...given) => { clearTimeout(timer); timer = setTimeout(() => work(...given), wait); };
}

export function guarded(work) {
  return (...given) => Promise.resolve().then(() => work(...given)).catch((error) => {
    if (error.status === 401) { leave(); return; }
    $("state").textContent = error.message;
  });
}

export function leave() {
  sessionStorage.removeItem("corrigenda-key");
  location.reload();
}

export const lines = (text) => text.split("\n").map((line) => line.trim()).filter(Boolean);

export const when = (text) => new Date(text).toLocaleString();

// One dialog asks whether something is really wanted, and takes a few words about it.
let wanted = null;

export function confirm({ title, text, label, yes, words = "", required = false }, work) {
  wanted = work;
  $("confirm").reset();
  $("sure-error").textContent = "";
  for (const [id, value] of [["sure-title", title], ["sure-text", text], ["sure-label", label], ["sure-yes", yes]]) $(id).textContent = value;
  const field = $("confirm").elements.words;
  field.value = words;
  field.required = required;
  $("sure").showModal();
}

$("confirm").addEventListener("submit", async (event) => {
  event.preventDefault();
  try {
    await wanted($("confirm").elements.words.value.trim());
    $("sure").close();
  } catch (error) {
    $("sure-error").textContent = error.message;
  }
});
