// The parts of a page, the facts of its run, and light and dark.

const onShow = []; // called when another part is shown, or in other colours

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
  for (const act of onShow) act();
}

const systemDark = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (systemDark.matches ? "dark" : "light")) === "dark";

function themed() {
  byId("theme").textContent = isDark() ? "Light" : "Dark";
  byId("theme").setAttribute("aria-label", isDark() ? "Switch to the light theme" : "Switch to the dark theme");
  for (const act of onShow) act();
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
