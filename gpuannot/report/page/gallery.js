// The images of one page, as cards with their words, and the way from page to page.

const PAGE = 60;
const ON_A_CARD = 10; // words; the dialog shows all
const gallery = { list: [], page: 0 };

function mark(state) {
  if (state === null) return null;
  const { sign, text } = MARKS[state];
  return el(
    "span",
    { class: `mark ${state}` },
    el("span", { "aria-hidden": "true" }, sign),
    el("span", { class: "unseen" }, `${text}: `),
  );
}

/** The words given to an image, as buttons that light up where they were seen. One tab stop; arrow keys go from word to word. */
function wordButtons(list, image, picture, large) {
  let pinned = null;
  const show = (place) => lightUp(picture, image, place);
  const rest = () => show(pinned);
  const given = large ? images.given[image] : images.given[image].slice(0, ON_A_CARD);
  const buttons = given.map((word, place) => {
    const state = stateOf(image, word);
    const value = images.values[image][place];
    return el(
      "button",
      {
        type: "button",
        class: isWeak(value) ? "weak-word" : null,
        tabindex: place ? -1 : 0,
        "aria-pressed": hasHeatmaps && "false",
        pointerenter: () => show(place),
        pointerleave: rest,
        focus: () => show(place),
        blur: rest,
        click: () => {
          pinned = pinned === place ? null : place;
          buttons.forEach((button, other) => hasHeatmaps && button.setAttribute("aria-pressed", String(other === pinned)));
          show(pinned);
        },
      },
      mark(state),
      el("span", { class: "text" }, words[word]),
      el("span", { class: "value" }, shownValue(value)),
      large && byConfidence && value !== undefined ? filled(value, "track") : null,
    );
  });
  list.replaceChildren(...buttons.map((button) => el("li", {}, button)));
  list.classList.toggle("still", !hasHeatmaps);
  list.onkeydown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const from = buttons.indexOf(document.activeElement);
    if (step && from >= 0) {
      event.preventDefault();
      const to = (from + step + buttons.length) % buttons.length;
      buttons[from].tabIndex = -1;
      buttons[to].tabIndex = 0;
      buttons[to].focus();
    } else if (event.key === "Escape" && (pinned !== null || picture.classList.contains("lit"))) {
      event.preventDefault(); // the first Escape clears the heatmap, the next one closes the dialog
      event.stopPropagation();
      pinned = null;
      buttons.forEach((button) => hasHeatmaps && button.setAttribute("aria-pressed", "false"));
      show(null);
    }
  };
}

/** Fill a `.picture` with an image's preview. */
function fillPicture(picture, image) {
  const source = pictureOf(image);
  picture.classList.remove("lit");
  picture.replaceChildren(
    source
      ? el("img", { src: source, alt: "", loading: "lazy", decoding: "async" })
      : el("span", { class: "none" }, "no preview"),
  );
  return picture;
}

const label = (image) => {
  const given = images.given[image].map((word) => words[word]).join(", ");
  return `${images.names[image]}: ${given || "no word"}`;
};

function card(image, place) {
  const picture = fillPicture(el("span", { class: "picture" }), image);
  picture.style.display = "block";
  picture.style.aspectRatio = gallery.aspect;
  const list = el("ol", { class: "words", "aria-label": `Words of ${images.names[image]}` });
  wordButtons(list, image, picture, false);
  const more = images.given[image].length - ON_A_CARD;
  if (more > 0) {
    const open = { type: "button", class: "more", click: () => openDetail(place) };
    list.append(el("li", {}, el("button", open, `${more} more`, el("span", { class: "unseen" }, ` words of ${images.names[image]}`))));
  }
  const missed = missedOf[image].map((word) => words[word]).join(", ");
  return el(
    "li",
    { class: "card", "data-image": image },
    el(
      "button",
      { type: "button", class: "open", "aria-label": `Open ${label(image)}`, click: () => openDetail(place) },
      picture,
    ),
    el("p", { class: "name", title: data.folder + images.names[image] }, ...pathLine(images.names[image])),
    list,
    missed
      ? el(
          "p",
          { class: "missed-words" },
          el("span", { class: "mark missed", "aria-hidden": "true" }, MARKS.missed.sign),
          " missed: ",
          missed,
        )
      : null,
  );
}

const pages = () => Math.max(1, Math.ceil(gallery.list.length / PAGE));

function showPage(page, focus = false) {
  gallery.page = Math.max(0, Math.min(pages() - 1, page));
  const start = gallery.page * PAGE;
  const cards = gallery.list.slice(start, start + PAGE).map((image, offset) => card(image, start + offset));
  byId("gallery").replaceChildren(...(cards.length ? cards : [el("li", { class: "empty" }, "No image fits these filters.")]));
  showPager();
  if (focus) {
    byId("images").scrollIntoView();
    byId("gallery").querySelector("button")?.focus({ preventScroll: true });
  }
}

function showPager() {
  const { page } = gallery;
  const go = (name, to, off) =>
    el(
      "button",
      { type: "button", class: `quiet ${name.toLowerCase()}-page`, disabled: off, click: () => showPage(to, true) },
      name,
    );
  const number = el("input", {
    type: "number",
    min: 1,
    max: pages(),
    value: page + 1,
    "aria-label": `Page, 1 to ${pages()}`,
    change: (event) => showPage((Number.parseInt(event.target.value, 10) || 1) - 1, true),
  });
  byId("pager").replaceChildren(
    go("First", 0, page === 0),
    go("Previous", page - 1, page === 0),
    el("label", {}, "Page", number, `of ${pages().toLocaleString("en")}`),
    go("Next", page + 1, page >= pages() - 1),
    go("Last", pages() - 1, page >= pages() - 1),
  );
  byId("pager").hidden = pages() === 1;
}
