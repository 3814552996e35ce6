// Which images the gallery holds, and in which order.

const STATES = knowsTruth
  ? {
      any: "all",
      right: "given rightly",
      wrong: "given wrongly",
      missed: "missed",
      faultless: "without any error",
      ...(images.truth.includes(null) ? { unlabelled: "without labels" } : {}),
    }
  : { any: "all" };

const ORDERS = {
  input: ["as in the input", null],
  ...(knowsTruth
    ? {
        errors: ["most errors first", (a, b) => errorsOf[b] - errorsOf[a]],
        fewest: ["fewest errors first", (a, b) => errorsOf[a] - errorsOf[b]],
      }
    : {}),
  surest: ["surest first", (a, b) => certainty(b) - certainty(a)],
  unsure: ["least sure first", (a, b) => certainty(a) - certainty(b)],
  name: ["by name", (a, b) => (images.names[a] < images.names[b] ? -1 : images.names[a] > images.names[b] ? 1 : 0)],
};

let further = []; // conditions that other parts of the report add: {word, state}

/** Whether an image has `word` (null: any word) in `state`. */
function fits(image, { word, state }) {
  const lists = { wrong: wrongOf[image], missed: missedOf[image] };
  if (state in lists) return word === null ? lists[state].length > 0 : lists[state].includes(word);
  const given = images.given[image];
  if (state === "unlabelled" ? isLabelled(image) : state !== "any" && !isLabelled(image)) return false;
  if (state === "right")
    return word === null ? given.length > wrongOf[image].length : given.includes(word) && true_[image].has(word);
  if (state === "faultless" && errorsOf[image]) return false;
  return word === null || given.includes(word) || missedOf[image].includes(word);
}

const chosenWord = () => (byId("word").value === "" ? null : Number(byId("word").value));

function applyFilters() {
  const terms = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const conditions = [{ word: chosenWord(), state: byId("state").value }, ...further];
  gallery.list = [];
  for (let image = 0; image < total; image += 1) {
    if (terms.every((term) => searchable[image].includes(term)) && conditions.every((condition) => fits(image, condition)))
      gallery.list.push(image);
  }
  const compare = ORDERS[byId("order").value][1];
  if (compare) gallery.list.sort(compare); // stable: ties stay as in the input
  const found = gallery.list.length;
  byId("count").textContent =
    found === total ? count(total, "image") : `${found.toLocaleString("en")} of ${count(total, "image")}`;
  showTokens();
  showPage(0);
}

function showTokens() {
  byId("tokens").replaceChildren(
    ...further.map((condition) =>
      el(
        "li",
        {},
        el(
          "button",
          {
            type: "button",
            "aria-label": `Remove the filter: ${words[condition.word]} ${STATES[condition.state]}`,
            click: () => {
              further = further.filter((other) => other !== condition);
              applyFilters();
              byId("search").focus();
            },
          },
          `and ${words[condition.word]} ${STATES[condition.state]} ✕`,
        ),
      ),
    ),
  );
  byId("tokens").hidden = !further.length;
}

/** Go to the images that fit: from a word of a table or a point of a chart. */
function showImagesWith(word, state = "any", more = []) {
  byId("search").value = "";
  byId("word").value = String(word);
  byId("state").value = state;
  further = more;
  applyFilters();
  location.hash = "images";
}

function startFilters() {
  const option = (value, text) => el("option", { value }, text);
  const alphabetical = words
    .map((_, word) => word)
    .filter((word) => table.given[word] || table.true[word])
    .sort((a, b) => words[a].localeCompare(words[b]));
  byId("word").append(option("", "any"), ...alphabetical.map((word) => option(word, words[word])));
  byId("state").append(...Object.entries(STATES).map(([value, text]) => option(value, text)));
  byId("state").parentElement.hidden = !knowsTruth;
  byId("order").append(...Object.entries(ORDERS).map(([value, [text]]) => option(value, text)));
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("search").addEventListener("input", applyFilters);
  for (const id of ["word", "state", "order"]) byId(id).addEventListener("change", applyFilters);
  byId("clear").addEventListener("click", () => {
    byId("filters").reset();
    further = [];
    applyFilters();
  });
  byId("legend").replaceChildren(
    ...(hasHeatmaps ? [el("span", {}, "press a word: where it was seen")] : []),
    ...(knowsTruth
      ? Object.entries(MARKS).map(([state, { text }]) =>
          el("span", {}, el("span", { class: `mark ${state}`, "aria-hidden": "true" }, MARKS[state].sign), ` ${text}`),
        )
      : []),
    el("span", {}, byConfidence ? `% confidence${data.weak === null ? "" : `, dimmed below ${percent(data.weak)}`}` : `number: ${data.measure}, smallest first`),
  );
  applyFilters();
}
