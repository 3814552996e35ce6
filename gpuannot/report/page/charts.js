// Charts of the words, by Chart.js. The table below them holds the same numbers as text.

const BARS = 25;
const charts = {};
let barred = [];

function chartStyle() {
  Chart.defaults.font.family = getComputedStyle(document.body).fontFamily;
  Chart.defaults.color = colour("--dim");
  Chart.defaults.borderColor = colour("--line");
  Chart.defaults.animation = false;
  Chart.defaults.maintainAspectRatio = false;
}

const shareAxis = (text) => ({ min: 0, max: 1, title: { display: true, text }, ticks: { callback: (value) => percent(value) } });

function drawChart(id, configuration, title, note) {
  charts[id]?.destroy();
  byId(`${id}-title`).textContent = title;
  byId(`${id}-note`).textContent = note;
  byId(id).setAttribute("aria-label", title);
  charts[id] = new Chart(byId(id), configuration);
}

/** The first words of the table, in its order. */
function drawBars() {
  const shown = barred.slice(0, BARS).map(({ word }) => word);
  const bars = (label, of, name) => ({
    label,
    data: shown.map(of),
    backgroundColor: colour(name),
    borderRadius: 2,
    categoryPercentage: 0.75,
    barPercentage: 0.95,
  });
  const datasets = knowsTruth
    ? [bars("precision", precisionOf, "--bar-precision"), bars("recall", recallOf, "--bar-recall")]
    : [bars("images given", (word) => table.given[word], "--bar-precision")];
  drawChart(
    "bars",
    {
      type: "bar",
      data: { labels: shown.map((word) => words[word]), datasets },
      options: {
        indexAxis: "y",
        onClick: (_, hit) => hit.length && showImagesWith(shown[hit[0].index]),
        scales: {
          x: knowsTruth ? shareAxis("") : { beginAtZero: true },
          y: { grid: { display: false }, ticks: { autoSkip: false, font: { size: 11 } } },
        },
        plugins: {
          legend: { display: knowsTruth, position: "top", align: "start", labels: { boxWidth: 10, boxHeight: 10 } },
          tooltip: { callbacks: { label: ({ dataset, raw }) => `${dataset.label} ${knowsTruth ? percent(raw, 1) : raw}` } },
        },
      },
    },
    knowsTruth ? "Precision and recall" : "Words given most",
    `The first ${shown.length} words of the table below, in its order`,
  );
}

/** How often a word was seen in training (or, without a model, in the truth) against how well it was found. */
function drawScatter() {
  const frequency = table.training ?? (knowsTruth ? table.true : null);
  byId("scatter").closest("figure").hidden = frequency === null;
  if (frequency === null) return;
  const points = words
    .map((_, word) => word)
    .filter((word) => frequency[word] && (!knowsTruth || table.true[word]))
    .map((word) => ({ x: frequency[word], y: knowsTruth ? recallOf(word) : table.given[word], word }));
  const what = table.training ? "training images with the word" : "images that carry the word";
  drawChart(
    "scatter",
    {
      type: "scatter",
      data: {
        datasets: [
          {
            data: points,
            backgroundColor: `color-mix(in srgb, ${colour("--accent")} 75%, transparent)`,
            radius: 4.5,
            hoverRadius: 7,
            clip: false,
          },
        ],
      },
      options: {
        onClick: (_, hit) => hit.length && showImagesWith(points[hit[0].index].word),
        scales: {
          x: {
            type: "logarithmic",
            title: { display: true, text: what },
            ticks: {
              maxRotation: 0,
              callback: (value) =>
                Number.isInteger(Math.log10(value)) || /^[25]/.test(String(value)) ? value.toLocaleString("en") : "",
            },
          },
          y: knowsTruth ? shareAxis("recall") : { beginAtZero: true, title: { display: true, text: "images given the word" } },
        },
        plugins: {
          legend: { display: false },
          tooltip: {
            callbacks: {
              label: ({ raw }) =>
                `${words[raw.word]}: ${raw.x}, ${knowsTruth ? `recall ${percent(raw.y, 1)}` : `given ${raw.y}`}`,
            },
          },
        },
      },
    },
    knowsTruth ? "Frequency and recall" : "Frequency and use",
    "Each point is a word; press one to see its images",
  );
}

/** Of the words given with about one confidence, how many were right: on the diagonal, confidences are true. */
function drawReliability() {
  const found = data.reliability;
  byId("reliable").closest("figure").hidden = found === null;
  if (found === null) return;
  const points = found.pairs
    .map((pairs, bin) => ({ x: found.confidence[bin], y: found.right[bin], pairs }))
    .filter(({ pairs }) => pairs > 0);
  const most = Math.max(...found.pairs);
  drawChart(
    "reliable",
    {
      type: "line",
      data: {
        datasets: [
          {
            data: points,
            borderColor: colour("--accent"),
            backgroundColor: colour("--accent"),
            pointRadius: points.map(({ pairs }) => 3 + 6 * Math.sqrt(pairs / most)),
            clip: false,
          },
          { data: [{ x: 0, y: 0 }, { x: 1, y: 1 }], borderColor: colour("--dim"), borderDash: [4, 4], pointRadius: 0, borderWidth: 1 },
        ],
      },
      options: {
        scales: { x: { type: "linear", ...shareAxis("confidence") }, y: shareAxis("right") },
        plugins: {
          legend: { display: false },
          tooltip: {
            filter: ({ datasetIndex }) => datasetIndex === 0,
            callbacks: {
              title: () => "",
              label: ({ raw }) => `confidence ${percent(raw.x, 1)}, right ${percent(raw.y, 1)}, ${raw.pairs.toLocaleString("en")} words`,
            },
          },
        },
      },
    },
    "Confidence and truth",
    `How many of the words given with about one confidence were right; expected calibration error ${percent(found.error, 1)}, ` +
      `${percent(found.error_by_chance, 1)} by chance alone`,
  );
  const said = points.map(({ x, y, pairs }) => `of ${pairs} words given with ${percent(x)}, ${percent(y)} were right`);
  byId("reliable").setAttribute("aria-label", `Confidence and truth: ${said.join("; ")}`);
}

function drawCharts() {
  if (byId("words").hidden) return; // a chart in a hidden part has no size
  chartStyle();
  drawBars();
  drawScatter();
  drawReliability();
}
