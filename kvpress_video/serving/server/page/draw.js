// Frames with the patches that are kept, and the two charts.

const SHADE = 0.84; // opacity of what has left
const ROOM = 18; // pixels of a chart above its highest line
const SVG = "http://www.w3.org/2000/svg";

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB"];
  const power = Math.min(3, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  const value = bytes / 1024 ** power;
  return `${value.toFixed(power && value < 100 ? 1 : 0)} ${units[power]}`;
}

// Draws a picture as wide as the canvas, and darkens what has left: `shares` are the kept shares of its patches
// (0 to 255), row by row, or null for a picture that nothing has looked at yet.
export function drawFrame(canvas, picture, shares, columns) {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  const context = canvas.getContext("2d");
  context.drawImage(picture, 0, 0);
  if (!shares) return;
  const shade = new ImageData(columns, shares.length / columns);
  shares.forEach((share, place) => { shade.data[4 * place + 3] = 255 * SHADE * (1 - Math.sqrt(share / 255)); });
  const small = new OffscreenCanvas(shade.width, shade.height);
  small.getContext("2d").putImageData(shade, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// Draws bytes over frames: what the session holds, its cap, and what a stock cache would hold.
export function drawMemory(svg, points) {
  const last = points.at(-1);
  if (!last?.frames) return svg.replaceChildren();
  const { width, height } = svg.getBoundingClientRect();
  const most = 1.5 * Math.max(last.cap, ...points.map((point) => point.bytes));
  const x = (frames) => (frames / last.frames) * width;
  const y = (bytes) => height - (bytes / most) * (height - ROOM);
  const line = (name) => points.map((point) => `${x(point.frames).toFixed(1)},${y(point[name]).toFixed(1)}`).join(" L");
  const above = y(last.stock) < ROOM;
  const crossing = points.find((point) => y(point.stock) < ROOM);
  const stock = above
    ? { x: Math.max(8, Math.min(x(crossing.frames) + 8, width - 160)), y: 13 }
    : { x: width - 8, y: y(last.stock) - 6, "text-anchor": "end" };
  const apart = Math.abs(y(last.stock) - y(last.bytes)) > ROOM;
  const held = { x: width - 8, y: y(last.bytes) + (y(last.bytes) > height - 20 ? -6 : 16), "text-anchor": "end" };
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(
    part("path", { class: "area", d: `M${line("bytes")} L${x(last.frames)},${height} L${x(points[0].frames)},${height} Z` }),
    part("path", { class: "stock", d: `M${line("stock")}` }),
    part("line", { class: "cap", x1: 0, x2: width, y1: y(last.cap), y2: y(last.cap) }),
    part("path", { class: "held", d: `M${line("bytes")}` }),
    part("text", { x: 8, y: y(last.cap) - 5 }, `cap ${size(last.cap)}`),
    part("text", { class: "stock-text", ...stock }, apart ? `stock cache ${size(last.stock)}${above ? " ↑" : ""}` : ""),
    part("text", { class: "held-text", ...held }, size(last.bytes)),
  );
}

// Draws which parts of a stream the kept entries come from: `held` are pairs of a step and its entries.
export function drawOrigin(svg, held, steps) {
  const { width, height } = svg.getBoundingClientRect();
  const bars = Math.max(1, Math.min(steps, Math.floor(width / 4)));
  const sums = new Array(bars).fill(0);
  for (const [step, entries] of held) sums[Math.floor((step / steps) * bars)] += entries;
  const most = Math.max(...sums, 1e-9);
  const wide = width / bars;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.replaceChildren(...sums.map((sum, bar) => {
    const tall = sum ? Math.max(1.5, (sum / most) * (height - 6)) : 0;
    return part("rect", { class: "kept", x: bar * wide, y: height - tall, width: Math.max(1, wide - 1), height: tall });
  }));
}

function part(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  if (text) made.textContent = text;
  return made;
}
