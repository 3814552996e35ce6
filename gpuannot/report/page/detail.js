// One image, large, in a dialog: the browser keeps the focus inside, closes it on Escape and gives the focus back.

let detailPlace = 0; // in gallery.list

function openDetail(place) {
  showDetail(place);
  byId("detail").showModal();
  // A focused word lights up: under a finger nothing should before it is touched.
  if (byTouch) byId("detail-close").focus();
  else byId("detail-words").querySelector("button")?.focus();
}

function showDetail(place) {
  detailPlace = place;
  const image = gallery.list[place];
  const picture = byId("detail-picture");
  fillPicture(picture, image);
  picture.style.aspectRatio = gallery.aspect;
  const shown = picture.querySelector("img");
  if (shown) {
    shown.alt = label(image);
    shown.loading = "eager";
    shown.onload = () => {
      picture.style.aspectRatio = shown.naturalWidth / shown.naturalHeight;
    };
  }
  const [folder, name] = /^(.*\/)?(.*)$/s.exec(images.names[image]).slice(1);
  byId("detail-name").textContent = name;
  byId("detail-folder").textContent = data.folder + (folder ?? "");
  wordButtons(byId("detail-words"), image, picture, true);
  const missed = missedOf[image].map((word) => el("li", {}, mark("missed"), ` ${words[word]}`));
  byId("detail-missed").replaceChildren(...(missed.length ? [el("p", { class: "dim" }, "Missed"), el("ul", {}, ...missed)] : []));
  byId("detail-hint").textContent = hasHeatmaps
    ? "Press a word to see where it was seen, and again to see the picture."
    : "This report was made without heatmaps.";
  byId("detail-scale").hidden = !hasHeatmaps;
  byId("detail-place").textContent = `${(place + 1).toLocaleString("en")} of ${gallery.list.length.toLocaleString("en")}`;
  byId("detail-previous").disabled = place === 0;
  byId("detail-next").disabled = place === gallery.list.length - 1;
}

function step(by) {
  const place = detailPlace + by;
  if (place < 0 || place >= gallery.list.length) return;
  const within = document.activeElement?.closest("#detail-words");
  showDetail(place);
  if (within) byId("detail-words").querySelector("button")?.focus();
}

function startDetail() {
  const dialog = byId("detail");
  byId("detail-close").addEventListener("click", () => dialog.close());
  byId("detail-previous").addEventListener("click", () => step(-1));
  byId("detail-next").addEventListener("click", () => step(1));
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "ArrowRight") step(1);
    if (event.key === "ArrowLeft") step(-1);
  });
  dialog.addEventListener("close", () => {
    const page = Math.floor(detailPlace / PAGE);
    if (page !== gallery.page) showPage(page);
    byId("gallery").querySelector(`[data-image="${gallery.list[detailPlace]}"] .open`)?.focus();
  });
  drawScale(byId("detail-scale").querySelector("canvas"));
}
