// Words made right by hand: one image at a time, the most doubtful first. What was decided outlives the page where the browser keeps it.

const CORRECTED = "corrections.json";
const STORED = `gpuannot-review-${data.identity}`;

let decided = new Map(); // image → its words as decided, for images that were looked at
const review = { order: [], place: 0, word: 0, extra: new Map() }; // extra: image → words added by hand, shown even if taken off again

/** How little the words that an image has to begin with and those proposed agree with how likely each is. */
function doubtOf(image) {
  if (images.doubt) return images.doubt[image];
  const values = images.values[image];
  const given = images.given[image]
    .map((word, place) => (startsWith(image, word) ? 1 - values[place] : values[place]))
    .filter(Number.isFinite); // an image may lack values
  return Math.max(0, ...given, ...missedOf[image].map(() => 1 - Math.min(1, ...values))); // missed: less likely than those given
}

/** Whether an image has a word before anything is decided: the labels say, or else the model, where it is sure enough. */
function startsWith(image, word) {
  if (isLabelled(image)) return true_[image].has(word);
  const place = images.given[image].indexOf(word);
  return place >= 0 && !isWeak(images.values[image][place]);
}

const textsOf = (image, list) => list.map((word) => words[word]);
const startOf = (image) => textsOf(image, reviewable(image).filter((word) => startsWith(image, word)));
const reviewable = (image) => [...images.given[image], ...missedOf[image]];
const wordsNow = (image) => decided.get(image) ?? startOf(image);
const isChanged = (image) => {
  const now = wordsNow(image);
  const start = startOf(image);
  return now.length !== start.length || now.some((word) => !start.includes(word));
};

// -- what the browser keeps ------------------------------------------------------------------------------------------------------

let kept = true;

function keep() {
  try {
    localStorage.setItem(STORED, JSON.stringify([...decided]));
  } catch {
    kept = false; // refused to a local file, or full: the decisions then last as long as the page
  }
}

function recall() {
  try {
    const found = JSON.parse(localStorage.getItem(STORED) ?? "[]");
    decided = new Map(found.filter(([image]) => image < total));
  } catch {
    decided = new Map();
  }
  for (const [image, list] of decided) {
    const known = textsOf(image, reviewable(image));
    review.extra.set(image, list.filter((word) => !known.includes(word)));
  }
}

// -- deciding --------------------------------------------------------------------------------------------------------------------

const current = () => review.order[review.place];
const shownWords = (image) => [...textsOf(image, reviewable(image)), ...(review.extra.get(image) ?? [])];

function decide(image, list) {
  if (list === null) {
    decided.delete(image);
    review.extra.delete(image);
  } else decided.set(image, list);
  keep();
  showReview();
}

/** Give the image a word or take it off. */
function setWord(word, on) {
  const image = current();
  const without = wordsNow(image).filter((other) => other !== word);
  decide(image, on ? [...without, word] : without);
}

function addWord(typed) {
  const text = typed.trim().normalize("NFC");
  if (!text) return;
  const word = words.includes(text) ? text : (words.find((other) => other.toLowerCase() === text.toLowerCase()) ?? text);
  const image = current();
  if (!shownWords(image).includes(word)) review.extra.set(image, [...(review.extra.get(image) ?? []), word]);
  review.word = shownWords(image).indexOf(word);
  setWord(word, true);
}

function goTo(place) {
  review.place = Math.max(0, Math.min(review.order.length - 1, place));
  review.word = 0;
  showReview();
}

function confirmImage() {
  decide(current(), wordsNow(current()));
  goTo(review.place + 1);
}

/** Show an image, by its number, for review. */
function reviewImage(image) {
  review.place = Math.max(0, review.order.indexOf(image));
  review.word = 0;
  location.hash = "review";
  showReview();
}

// -- showing ---------------------------------------------------------------------------------------------------------------------

function reviewButton(image, word, place) {
  const number = words.indexOf(word);
  const at = images.given[image].indexOf(number);
  const value = at < 0 ? undefined : (images.values[image][at] ?? undefined); // null: a word that was not judged
  const on = wordsNow(image).includes(word);
  const before = number >= 0 && reviewable(image).includes(number) ? startsWith(image, number) : false;
  const open = !on && !decided.has(image); // proposed, or given by a model that was not sure, and nobody has said anything yet
  const state = on ? "right" : open ? "missed" : "wrong";
  const note = before !== on ? (on ? "added" : "taken off") : open && isLabelled(image) ? "proposed" : "";
  return el(
    "button",
    {
      type: "button",
      "aria-pressed": String(on),
      tabindex: place === review.word ? 0 : -1,
      class: [state === "wrong" ? "off-word" : null, before === on ? null : "changed-word"].filter(Boolean).join(" ") || null,
      focus: () => (review.word = place),
      click: () => {
        review.word = place;
        setWord(word, !on);
        focusWord();
      },
    },
    el("span", { class: `mark ${state}`, "aria-hidden": "true" }, MARKS[state].sign),
    el("span", { class: "text" }, word),
    note ? el("span", { class: "note" }, note) : null,
    el("span", { class: "value" }, shownValue(value)),
    byConfidence && value !== undefined ? filled(value, "track") : null,
  );
}

function showReview() {
  const image = current();
  const list = shownWords(image);
  review.word = Math.max(0, Math.min(list.length - 1, review.word));
  const picture = byId("review-picture");
  if (picture.dataset.image !== String(image)) {
    fillPicture(picture, image);
    picture.dataset.image = image;
    const shown = picture.querySelector("img");
    if (shown) {
      shown.alt = images.names[image];
      shown.loading = "eager";
    }
  }
  byId("review-name").textContent = images.names[image];
  byId("review-name").title = data.folder + images.names[image];
  byId("review-words").replaceChildren(...list.map((word, place) => el("li", {}, reviewButton(image, word, place))));
  const changed = [...decided.keys()].filter(isChanged).length;
  const state = !decided.has(image) ? "" : isChanged(image) ? ", corrected" : ", confirmed";
  byId("review-place").textContent =
    `${(review.place + 1).toLocaleString("en")} of ${count(review.order.length, "image")}, most doubtful first${state}`;
  byId("review-count").textContent =
    `${decided.size.toLocaleString("en")} reviewed, ${changed.toLocaleString("en")} corrected` +
    (kept ? "" : ". This browser keeps nothing of a local file: export before you close the page");
  byId("review-export").disabled = byId("review-discard").disabled = !decided.size;
  byId("review-previous").disabled = review.place === 0;
  byId("review-next").disabled = review.place === review.order.length - 1;
}

const focusWord = () => byId("review-words").querySelectorAll("button")[review.word]?.focus({ preventScroll: byTouch });

// -- exporting -------------------------------------------------------------------------------------------------------------------

/** The path of an image as other programs find it: a name that is relative began at the folder where the report was made. */
function locationOf(image) {
  const path = data.folder + images.names[image];
  return /^([/\\]|[A-Za-z]:[/\\]|[A-Za-z][\w+.-]*:\/\/)/.test(path) ? path : `${data.root}/${path}`;
}

/** Reviewed images as a label file; those that a model was fitted to with what they were labelled then, as `was`. */
function corrections() {
  const samples = [...decided.keys()]
    .sort((a, b) => a - b)
    .map((image) => ({
      image_name: locationOf(image),
      image_labels: [...wordsNow(image)].sort(),
      ...(data.learnt ? { was: startOf(image).sort() } : {}),
    }));
  return { schema: "gpuannot.corrections/1", samples };
}

function exportCorrections() {
  if (!decided.size) return;
  const text = JSON.stringify(corrections(), null, 1);
  const address = URL.createObjectURL(new Blob([`${text}\n`], { type: "application/json" }));
  el("a", { href: address, download: CORRECTED }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}

// -- keys ------------------------------------------------------------------------------------------------------------------------

function chooseWord(by) {
  const last = shownWords(current()).length - 1;
  review.word = Math.max(0, Math.min(last, review.word + by));
  focusWord();
}

function judge(on) {
  const word = shownWords(current())[review.word];
  if (word === undefined) return;
  review.word += 1;
  setWord(word, on);
  focusWord();
}

const KEYS = {
  ArrowDown: () => chooseWord(1),
  ArrowUp: () => chooseWord(-1),
  ArrowRight: () => (goTo(review.place + 1), focusWord()),
  ArrowLeft: () => (goTo(review.place - 1), focusWord()),
  y: () => judge(true),
  n: () => judge(false),
  a: () => byId("review-word").focus(),
  c: () => (confirmImage(), focusWord()),
  u: () => (decide(current(), null), focusWord()),
  e: exportCorrections,
};

function startReview() {
  recall();
  const doubt = images.names.map((_, image) => (byConfidence || images.doubt ? doubtOf(image) : errorsOf[image]));
  review.order = images.names
    .map((_, image) => image)
    .sort((a, b) => doubt[b] - doubt[a] || (byConfidence ? 0 : certainty(a) - certainty(b)) || a - b);
  review.place = Math.max(0, review.order.findIndex((image) => !decided.has(image))); // go on where it was left
  const known = [...new Set(words)].sort((a, b) => a.localeCompare(b));
  byId("vocabulary").append(...known.map((word) => el("option", { value: word })));
  byId("review-add").addEventListener("submit", (event) => {
    event.preventDefault();
    addWord(byId("review-word").value);
    byId("review-word").value = "";
  });
  byId("review-word").addEventListener("keydown", (event) => {
    if (event.key === "Escape") focusWord();
  });
  byId("review-previous").addEventListener("click", () => goTo(review.place - 1));
  byId("review-next").addEventListener("click", () => goTo(review.place + 1));
  byId("review-confirm").addEventListener("click", confirmImage);
  byId("review-export").addEventListener("click", exportCorrections);
  byId("review-discard").addEventListener("click", () => {
    if (!confirm(`Discard what was decided for ${count(decided.size, "image")}?`)) return;
    decided.clear();
    review.extra.clear();
    keep();
    goTo(0);
  });
  document.addEventListener("keydown", (event) => {
    const elsewhere = event.ctrlKey || event.altKey || event.metaKey || event.target.matches("input, select, textarea");
    const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (byId("review").hidden || elsewhere || !act || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    act();
  });
  showReview();
}
