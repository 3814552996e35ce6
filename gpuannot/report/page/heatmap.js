// Where in an image a word was seen: the levels of its patches as a picture over the image.

const hasHeatmaps = data.grid !== null;

function heatColour(level) {
  const place = level * (data.palette.length - 1);
  const from = Math.min(data.palette.length - 2, Math.floor(place));
  return data.palette[from].map((value, channel) => value + (place - from) * (data.palette[from + 1][channel] - value));
}

/** The levels 0…255 of an image's `place`-th word, row by row; null without heatmap. */
function levelsOf(image, place) {
  const text = hasHeatmaps ? line("h", image) : null;
  if (!text) return null;
  const size = data.grid[0] * data.grid[1];
  const levels = decoded(text).subarray(place * size, (place + 1) * size);
  return levels.length === size ? levels : null;
}

/** Draw levels into a canvas that lies over a picture of the given size, smoothed as the patches overlap. */
function drawHeatmap(canvas, levels, width, height) {
  const [rows, columns] = data.grid;
  const small = el("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  levels.forEach((level, patch) => pixels.data.set([...heatColour(level / 255), 24 + 0.76 * level], 4 * patch));
  small.getContext("2d").putImageData(pixels, 0, 0);
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = true;
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, width, height);
}

/** Show or hide the heatmap of an image's `place`-th word in a `.picture`. */
function lightUp(picture, image, place) {
  const shown = picture.querySelector("img");
  const levels = place === null ? null : levelsOf(image, place);
  if (levels && shown?.naturalWidth) {
    const canvas = picture.querySelector("canvas") ?? picture.appendChild(el("canvas", { "aria-hidden": "true" }));
    drawHeatmap(canvas, levels, shown.naturalWidth, shown.naturalHeight);
  }
  picture.classList.toggle("lit", Boolean(levels));
}

/** The colours from least to most, for a legend. */
function drawScale(canvas) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x += 1) {
    context.fillStyle = `rgb(${heatColour(x / (canvas.width - 1)).join(" ")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}
