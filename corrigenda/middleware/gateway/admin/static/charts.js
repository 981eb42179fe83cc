// Charts, drawn as SVG by hand; each comes with its numbers in words for those who do not see it.
import { $, call, make, session } from "./session.js";

const WIDTH = 1000;
const HEIGHT = 120;

export async function show() {
  const row = await call("GET", "/activity", { query: { namespace: session.namespace } });
  const outcomes = Object.keys(row.minutes);
  $("requests").replaceChildren(...stacked(outcomes.map((name) => ({ name: name.replace("_", " "), values: row.minutes[name] })), ["60 min ago", "now"], "requests a minute"));
  const kinds = [...new Set(row.days.flatMap((day) => Object.keys(day).filter((name) => name !== "day")))].sort();
  $("days").replaceChildren(...stacked(kinds.map((name) => ({ name, values: row.days.map((day) => day[name] ?? 0) })), [row.days[0].day, row.days.at(-1).day], "events a day"));
  $("fired").replaceChildren(...ranked(row.fired));
  $("state").textContent = `${row.edits} live edits`;
}

function stacked(series, [first, last], unit) {
  if (!series.length) return [make("p", "Nothing yet.", { class: "quiet" })];
  const count = series[0].values.length;
  const totals = series[0].values.map((_, place) => series.reduce((sum, one) => sum + one.values[place], 0));
  const highest = Math.max(...totals, 1);
  const summary = series.map((one) => `${one.name}: ${one.values.reduce((sum, value) => sum + value, 0)}`).join(", ");
  const picture = make("svg:svg", null, { viewBox: `0 0 ${WIDTH} ${HEIGHT + 18}`, role: "img", "aria-label": `${unit}, at most ${highest}. ${summary}` });
  const step = WIDTH / count;
  for (let place = 0; place < count; place += 1) {
    let top = HEIGHT;
    series.forEach((one, number) => {
      const height = (one.values[place] / highest) * (HEIGHT - 14);
      if (!height) return;
      top -= height;
      const bar = make("svg:rect", null, { class: `c${number % 6}`, x: place * step + 0.5, y: top, width: Math.max(step - 1, 1), height });
      bar.append(make("svg:title", `${one.name}: ${one.values[place]}`));
      picture.append(bar);
    });
  }
  picture.append(make("svg:line", null, { class: "axis", x1: 0, x2: WIDTH, y1: HEIGHT, y2: HEIGHT }));
  picture.append(make("svg:text", `${highest} ${unit}`, { class: "tick", x: 0, y: 11 }));
  picture.append(make("svg:text", first, { class: "tick", x: 0, y: HEIGHT + 14 }));
  picture.append(make("svg:text", last, { class: "tick", x: WIDTH, y: HEIGHT + 14, "text-anchor": "end" }));
  const legend = make("figcaption");
  series.forEach((one, number) => {
    const entry = make("span");
    entry.append(make("span", null, { class: `mark c${number % 6}` }), `${one.name} ${one.values.reduce((sum, value) => sum + value, 0)}`);
    legend.append(entry);
  });
  return [picture, legend];
}

function ranked(rows) {
  if (!rows.length) return [make("p", "None yet.", { class: "quiet" })];
  const table = make("table");
  for (const row of rows) {
    const line = make("tr");
    const bar = make("td");
    bar.className = "number";
    bar.append(make("meter", null, { class: "score", min: 0, max: rows[0].times, value: row.times, "aria-label": "times" }), ` ${row.times}`);
    line.append(make("td", row.statement), bar);
    table.append(line);
  }
  return [table];
}
