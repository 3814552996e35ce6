// Tables that sort and can be searched: every word with its counts, and what was given in place of a missed one.

/** A cell with a share and its bar. */
const share = (value, classes) => el("td", { class: "number" }, percent(value, 1), filled(value, `share ${classes}`));
const whole = (value) => el("td", { class: "number" }, value.toLocaleString("en"));
const wordButton = (word, state) =>
  el("td", {}, el("button", { type: "button", title: "Show its images", click: () => showImagesWith(word, state) }, words[word]));

/**
 * A table whose headings sort.
 * columns: {name, title, value: (row) => number or string, cell: (row) => td}; sorts by `order` at first.
 */
function sortableTable(id, columns, rows, order, { search, status, noun, changed }) {
  const place = byId(id);
  let [by, down] = order;
  const show = () => {
    const { value } = columns[by];
    const terms = byId(search).value.toLowerCase().split(/\s+/).filter(Boolean);
    const found = rows.filter((row) => terms.every((term) => words[row.word].toLowerCase().includes(term)));
    found.sort((a, b) => {
      const [first, second] = [value(a), value(b)];
      const sign = typeof first === "string" ? first.localeCompare(second) : first - second;
      return (down ? -sign : sign) || a.word - b.word;
    });
    place.tHead.replaceChildren(
      el(
        "tr",
        {},
        ...columns.map((column, number) =>
          el(
            "th",
            {
              scope: "col",
              class: column.number && "number",
              title: column.title,
              "aria-sort": number === by && (down ? "descending" : "ascending"),
            },
            el(
              "button",
              {
                type: "button",
                click: () => {
                  [by, down] = [number, number === by ? !down : Boolean(column.number)];
                  show();
                  place.tHead.querySelectorAll("button")[number].focus();
                },
              },
              column.name,
              el("span", { "aria-hidden": "true" }, number === by ? (down ? " ↓" : " ↑") : ""),
            ),
          ),
        ),
      ),
    );
    place.tBodies[0].replaceChildren(...found.map((row) => el("tr", {}, ...columns.map((column) => column.cell(row)))));
    byId(status).textContent =
      found.length === rows.length ? count(rows.length, noun) : `${found.length} of ${count(rows.length, noun)}`;
    changed?.(found, columns[by], down);
  };
  byId(search).addEventListener("input", show);
  byId(search).form.addEventListener("submit", (event) => event.preventDefault());
  show();
  return show;
}

function startWordTable(changed) {
  const counted = (name, title, list) => ({
    name,
    title,
    number: true,
    value: ({ word }) => list[word],
    cell: ({ word }) => whole(list[word]),
  });
  const shared = (name, title, of, classes) => ({
    name,
    title,
    number: true,
    value: ({ word }) => of(word),
    cell: ({ word }) => share(of(word), classes),
  });
  const columns = [{ name: "Word", title: "", value: ({ word }) => words[word], cell: ({ word }) => wordButton(word) }];
  if (table.training) columns.push(counted("Learnt from", "Training images with this word", table.training));
  if (knowsTruth) columns.push(counted("True", "Images that carry this word", table.true));
  columns.push(counted("Given", "Images that were given this word", table.given));
  if (knowsTruth) {
    columns.push(
      counted("Right", "Images that carry this word and were given it", table.right),
      shared("Precision", "Right / given", precisionOf, "precision"),
      shared("Recall", "Right / true", recallOf, "recall"),
      shared("F1", "Harmonic mean of this word's precision and recall", f1Of, "f1"),
    );
  }
  const first = columns.findIndex((column) => column.name === (knowsTruth ? "True" : "Given"));
  const rows = words.map((_, word) => ({ word }));
  return sortableTable("word-table", columns, rows, [first, true], {
    search: "word-search",
    status: "word-count",
    noun: "word",
    changed,
  });
}

function startConfusion() {
  if (!data.confusion) return;
  const rows = data.confusion.map(([word, missed, instead]) => ({ word, missed, instead }));
  const columns = [
    { name: "Missed word", title: "", value: ({ word }) => words[word], cell: ({ word }) => wordButton(word, "missed") },
    {
      name: "Missed",
      title: "Images that carry the word and were not given it",
      number: true,
      value: ({ missed }) => missed,
      cell: ({ missed }) => whole(missed),
    },
    {
      name: "Of",
      title: "Images that carry the word",
      number: true,
      value: ({ word }) => table.true[word],
      cell: ({ word }) => whole(table.true[word]),
    },
    {
      name: "Given in its place",
      title: "Wrong words of those images",
      value: ({ instead }) => (instead.length ? words[instead[0][0]] : ""),
      cell: ({ word, instead }) =>
        el(
          "td",
          {},
          el(
            "div",
            { class: "chips" },
            ...instead.map(([other, times]) =>
              el(
                "button",
                {
                  type: "button",
                  title: `Show the ${count(times, "image")}`,
                  click: () => showImagesWith(word, "missed", [{ word: other, state: "wrong" }]),
                },
                `${words[other]} `,
                el("b", {}, `×${times}`),
              ),
            ),
          ),
        ),
    },
  ];
  sortableTable("confusion-table", columns, rows, [1, true], {
    search: "confusion-search",
    status: "confusion-count",
    noun: "missed word",
  });
}
