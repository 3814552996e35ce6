// Before the first paint, so that a dark page does not flash white.
try {
  const chosen = localStorage.getItem("gpuannot-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // A browser may refuse storage to a local file: the theme is then the system's.
}
