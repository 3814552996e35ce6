// The summary of a report, and what starts when it is opened.

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

gallery.aspect = Math.max(0.8, Math.min(1.8, data.aspect));
showTiles();
showFacts();
startFilters();
startDetail();
startReview();
startWordTable((rows) => {
  barred = rows;
  drawCharts();
});
startConfusion();
onShow.push(drawCharts);
themed();
showPart();
