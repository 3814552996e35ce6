// What an audit found beside doubtful words: images that are alike, and words that the model does not tell apart or hardly knows.

const chips = (list) =>
  el("div", { class: "chips" }, ...list.map((word) => el("span", { class: "chip" }, words[word])), list.length ? null : "–");

function pictureLink(image, others) {
  const picture = fillPicture(el("span", { class: "picture" }), image);
  picture.style.display = "block";
  return el(
    "div",
    { class: "twin" },
    el(
      "button",
      { type: "button", class: "open", "aria-label": `Review ${images.names[image]}`, click: () => reviewImage(image) },
      picture,
    ),
    el("p", { class: "name", title: data.folder + images.names[image] }, ...pathLine(images.names[image])),
    el("p", { class: "dim" }, "only here:"),
    chips(others),
  );
}

function showAlike() {
  byId("alike-list").append(
    ...data.alike.map(({ images: [first, second], similarity, words: [one, other] }) =>
      el(
        "li",
        { class: "card pair" },
        pictureLink(first, one),
        pictureLink(second, other),
        el("p", { class: "dim" }, `similarity ${similarity.toFixed(3)}`),
      ),
    ),
  );
}

function fillTable(id, rows) {
  byId(id).tBodies[0].append(...rows.map((cells) => el("tr", {}, ...cells)));
  byId(id).closest(".scroll").hidden = !rows.length;
}

function showWords() {
  const cell = (text) => el("td", {}, text);
  fillTable(
    "confused-table",
    data.confused.map(({ words: [first, second], told_apart, images: [one, other] }) => [
      cell(words[first]),
      cell(words[second]),
      el("td", { class: "number" }, percent(told_apart)),
      whole(one),
      whole(other),
    ]),
  );
  fillTable("few-table", data.few.map(({ word, images: number }) => [cell(words[word]), whole(number)]));
}

function showFound() {
  const tiles = Object.entries(data.found).map(([name, number]) =>
    el("div", {}, el("dt", {}, name), el("dd", {}, number.toLocaleString("en"))),
  );
  byId("tiles").append(...tiles);
}

const whole = (value) => el("td", { class: "number" }, value.toLocaleString("en"));

showFound();
showFacts();
showAlike();
showWords();
startReview();
themed();
showPart();
