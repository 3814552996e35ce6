// The parts of the report, its summary, and light and dark.

function showTiles() {
  const { scores } = data;
  const tiles = [
    ["images annotated", data.annotated.toLocaleString("en")],
    ["words", words.length.toLocaleString("en")],
  ];
  if (scores && data.labelled < data.annotated) tiles.push(["of them with labels, and scored", data.labelled.toLocaleString("en")]);
  if (data.failed) tiles.push(["images failed", data.failed.toLocaleString("en")]);
  if (scores) {
    tiles.push(
      ["precision", percent(scores.precision, 1)],
      ["recall", percent(scores.recall, 1)],
      ["F1", percent(scores.f1, 1)],
      ["N+, words found", scores.n_plus.toLocaleString("en")],
    );
  }
  tiles.push(["words given", data.table.given.filter(Boolean).length.toLocaleString("en")]);
  if (total < data.annotated) tiles.push(["images shown, evenly spaced", total.toLocaleString("en")]);
  const linked = (name, value) => (name === "images failed" ? el("a", { href: "#run", title: "Which, and why" }, value) : value);
  byId("tiles").append(...tiles.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, linked(name, value)))));
  byId("meanings").hidden = !scores;
}

function showFacts() {
  const groups = data.run.map(([title, facts]) =>
    el(
      "section",
      {},
      el("h3", {}, title),
      el("dl", {}, ...facts.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, value)])),
    ),
  );
  if (data.failed) {
    groups.unshift(
      el(
        "section",
        {},
        el(
          "h3",
          {},
          `${count(data.failed, "image")} failed${data.failed > data.failures.length ? `, the first ${data.failures.length}` : ""}`,
        ),
        el(
          "ul",
          {},
          ...data.failures.map(([path, stage, reason]) =>
            el("li", {}, path, el("span", { class: "dim" }, ` ${stage}: ${reason}`)),
          ),
        ),
      ),
    );
  }
  if (data.unpreviewed)
    groups.unshift(el("section", {}, el("p", {}, `${count(data.unpreviewed, "image")} could not be read again for a preview.`)));
  byId("facts").append(...groups);
}

function showPart() {
  const parts = [...document.querySelectorAll("main > section")];
  const named = parts.find((part) => `#${part.id}` === location.hash);
  if (!named && document.querySelector(".tabs [aria-current]")) return; // a skip link's target within the part that is shown
  const wanted = named ?? parts[0];
  for (const part of parts) part.hidden = part !== wanted;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${wanted.id}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  drawCharts();
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";

function themed() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
  drawCharts();
}

byId("theme").addEventListener("click", () => {
  const theme = isDark() ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem("gpuannot-theme", theme);
  } catch {
    // refused to a local file: the choice then lasts as long as the page
  }
  themed();
});
systemDark.addEventListener("change", themed);
addEventListener("hashchange", showPart);

gallery.aspect = Math.max(0.8, Math.min(1.8, data.aspect));
showTiles();
showFacts();
startFilters();
startDetail();
startWordTable((rows) => {
  barred = rows;
  drawCharts();
});
startConfusion();
themed();
showPart();
