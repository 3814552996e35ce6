// The report's data, and what follows from it for each image. Lists of images are lists of their numbers.

const data = JSON.parse(byId("data").textContent);
const { words, images, table } = data;
const total = images.names.length;
const BLOCK = 64;
const knowsTruth = images.truth !== null;
const byConfidence = data.measure === "confidence";

const MARKS = {
  right: { sign: "✓", text: "right" },
  wrong: { sign: "✕", text: "wrong" },
  missed: { sign: "○", text: "missed" },
};

const isLabelled = (image) => knowsTruth && images.truth[image] !== null;
const true_ = knowsTruth ? images.truth.map((list) => new Set(list ?? [])) : null;
const missedOf = images.given.map((given, image) =>
  isLabelled(image) ? images.truth[image].filter((word) => !given.includes(word)) : [],
);
const wrongOf = images.given.map((given, image) => (isLabelled(image) ? given.filter((word) => !true_[image].has(word)) : []));
const errorsOf = missedOf.map((missed, image) => missed.length + wrongOf[image].length);
const searchable = images.names.map((name, image) =>
  [data.folder + name, ...images.given[image].map((word) => words[word]), ...missedOf[image].map((word) => words[word])]
    .join("\n")
    .toLowerCase(),
);

/** right, wrong or missed; null where the truth is not known. */
function stateOf(image, word) {
  if (!isLabelled(image)) return null;
  if (!images.given[image].includes(word)) return "missed";
  return true_[image].has(word) ? "right" : "wrong";
}

const shownValue = (value) =>
  value === undefined ? "" : byConfidence ? percent(value) : Number(value.toPrecision(3)).toString();

const isWeak = (value) => byConfidence && data.weak !== null && value < data.weak;

/** How sure the first word of an image is: higher is surer. */
const certainty = (image) => {
  const first = images.values[image][0];
  return first === undefined ? -Infinity : byConfidence ? first : -first;
};

// The lines of a block of previews or heatmaps, split when an image of it is shown first.
const blocks = new Map();
function line(kind, image) {
  const id = kind + Math.floor(image / BLOCK);
  if (!blocks.has(id)) blocks.set(id, byId(id)?.textContent.split("\n") ?? []);
  return blocks.get(id)[image % BLOCK] || null;
}

/** The picture of an image as a data URI; null where it could not be read. */
function pictureOf(image) {
  const text = line("p", image);
  return text && `data:image/${text.startsWith("/9j/") ? "jpeg" : "webp"};base64,${text}`;
}

const precisionOf = (word) => (table.given[word] ? table.right[word] / table.given[word] : 0);
const recallOf = (word) => (table.true[word] ? table.right[word] / table.true[word] : 0);
const f1Of = (word) => (table.right[word] ? (2 * table.right[word]) / (table.given[word] + table.true[word]) : 0);
