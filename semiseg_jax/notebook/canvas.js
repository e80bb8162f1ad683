// The canvas in the browser. Python sets `shown` and `prediction`; strokes go back as `drawn`, the wanted image as `index`.
// Places are y, x in pixels of the image as the dataset has it, which may be larger than the picture that is shown.

const TOOLS = [
  { kind: "stroke", name: "Stroke", key: "s" },
  { kind: "point", name: "Click", key: "c" },
  { kind: "box", name: "Box", key: "b" },
  { kind: "erase", name: "Erase", key: "e" },
];
const HELP =
  "Keys: s stroke, c click, b box, e erase, 1 to 9 class, [ and ] width, z undo, left and right image, p prediction.";

function element(tag, options = {}, ...children) {
  const { dataset, ...more } = options;
  const made = Object.assign(document.createElement(tag), more);
  Object.assign(made.dataset, dataset);
  made.append(...children);
  return made;
}

function choice(group, label, title, children, chosen, onChoose) {
  const input = element("input", { type: "radio", name: group, checked: chosen, title });
  input.addEventListener("change", onChoose);
  return element("label", { className: "choice", title }, input, element("span", {}, ...children, label));
}

function slider(label, title, range, onInput) {
  const input = element("input", { type: "range", title, ...range });
  input.addEventListener("input", () => onInput(Number(input.value)));
  return [element("label", { className: "slider", title }, `${label} `, input), input];
}

async function pictureOf(bytes, type) {
  if (!bytes || !bytes.byteLength) return null;
  const picture = new Image();
  const address = URL.createObjectURL(new Blob([bytes], { type }));
  picture.src = address;
  await picture.decode();
  URL.revokeObjectURL(address);
  return picture;
}

function distance(shape, [y, x]) {
  if (shape.kind === "box") {
    const [[y0, x0], [y1, x1]] = shape.places;
    const corners = [[y0, x0], [y0, x1], [y1, x1], [y1, x0], [y0, x0]];
    return lineDistance(corners, y, x);
  }
  return Math.max(0, lineDistance(shape.places, y, x) - (shape.width || 1) / 2);
}

function lineDistance(places, y, x) {
  let nearest = Math.hypot(places[0][0] - y, places[0][1] - x);
  for (let i = 1; i < places.length; i++) {
    const [[y0, x0], [y1, x1]] = [places[i - 1], places[i]];
    const squared = (y1 - y0) ** 2 + (x1 - x0) ** 2;
    const along = squared ? Math.min(1, Math.max(0, ((y - y0) * (y1 - y0) + (x - x0) * (x1 - x0)) / squared)) : 0;
    nearest = Math.min(nearest, Math.hypot(y0 + along * (y1 - y0) - y, x0 + along * (x1 - x0) - x));
  }
  return nearest;
}

// What is drawn on the images that this page has seen, and the steps back.
class Shapes {
  constructor() {
    this.images = new Map();
  }
  // `drawn` is what a page sent last: newer than what Python showed, where a page is opened again.
  open({ name, shapes, version }, drawn) {
    const known = this.images.get(name);
    const sent = drawn && drawn.name === name && drawn.version === version;
    if (!known || known.version !== version)
      this.images.set(name, { name, version, now: sent ? drawn.shapes : shapes, before: [] });
    this.here = this.images.get(name);
  }
  // What another view of the same canvas drew.
  follow({ name, shapes, version }) {
    const known = this.images.get(name);
    if (!known || known.version !== version || known.now === shapes) return;
    known.before.push(known.now);
    known.now = shapes;
  }
  get all() {
    return this.here ? this.here.now : [];
  }
  change(shapes) {
    this.here.before.push(this.here.now);
    this.here.now = shapes;
  }
  undo() {
    if (!this.here.before.length) return false;
    this.here.now = this.here.before.pop();
    return true;
  }
}

class Painter {
  constructor(canvas, classes, colors) {
    Object.assign(this, { canvas, classes, colors, opacity: 0.5 });
    this.context = canvas.getContext("2d");
  }
  // One pixel of the canvas is one of the picture, or of the screen where the picture is small.
  fit(size, image) {
    const grow = Math.max(1, 900 / Math.max(image.naturalWidth, image.naturalHeight));
    this.canvas.width = Math.round(image.naturalWidth * grow);
    this.canvas.height = Math.round(image.naturalHeight * grow);
    this.scale = this.canvas.width / size[1];
    Object.assign(this, { image, size });
  }
  paint(shapes, prediction) {
    const { context, canvas } = this;
    if (!this.image) return;
    context.imageSmoothingEnabled = false;
    context.globalAlpha = 1;
    context.drawImage(this.image, 0, 0, canvas.width, canvas.height);
    if (prediction && this.opacity) {
      context.globalAlpha = this.opacity;
      context.drawImage(prediction, 0, 0, canvas.width, canvas.height);
      context.globalAlpha = 1;
    }
    for (const shape of shapes) this[shape.kind](shape);
  }
  // Everything has a light and a dark rim, so that it is seen on any image.
  rimmed(shape, width, path) {
    const { context, unit } = this;
    context.lineJoin = context.lineCap = "round";
    for (const [color, more] of [["#000", 4], ["#fff", 2], [this.color(shape), 0]]) {
      context.strokeStyle = color;
      context.lineWidth = width + more * unit;
      context.beginPath();
      path();
      context.stroke();
    }
  }
  get unit() {
    return Math.max(1, this.canvas.width / (this.canvas.clientWidth || this.canvas.width));
  }
  color(shape) {
    return `rgb(${this.colors[shape.class].join()})`;
  }
  stroke(shape) {
    const places = shape.places.map(([y, x]) => [x * this.scale, y * this.scale]);
    this.rimmed(shape, Math.max(2 * this.unit, shape.width * this.scale), () => this.line(places));
  }
  line(places) {
    const [x, y] = places[0];
    this.context.moveTo(x + 0.01, y); // a line without any length is not drawn
    for (const place of places) this.context.lineTo(...place);
  }
  box(shape) {
    const [[y0, x0], [y1, x1]] = shape.places.map((place) => place.map((value) => value * this.scale));
    this.rimmed(shape, 3 * this.unit, () => this.context.rect(x0, y0, x1 - x0, y1 - y0));
    this.text(this.classes[shape.class], Math.min(x0, x1) + 4 * this.unit, Math.min(y0, y1) + 4 * this.unit, "left");
  }
  point(shape) {
    const [y, x] = shape.places[0].map((value) => value * this.scale);
    this.rimmed(shape, 12 * this.unit, () => this.line([[x, y]]));
    this.text(String(shape.class + 1), x, y - 5 * this.unit, "center");
  }
  text(text, x, y, align) {
    const { context, unit } = this;
    context.font = `bold ${11 * unit}px sans-serif`;
    Object.assign(context, { textAlign: align, textBaseline: "top", strokeStyle: "#000", fillStyle: "#fff" });
    context.lineWidth = 3 * unit;
    context.strokeText(text, x, y);
    context.fillText(text, x, y);
  }
}

function render({ model, el }) {
  const [classes, colors, names] = ["classes", "colors", "names"].map((name) => model.get(name));
  const group = `semiseg-${Math.random().toString(36).slice(2)}`;
  const state = { tool: "stroke", class: Math.min(1, classes.length - 1), width: 3, making: null, prediction: null };
  const shapes = new Shapes();

  const canvas = element("canvas", { className: "picture", tabIndex: 0 });
  const painter = new Painter(canvas, classes, colors);
  const status = element("p", { className: "status", role: "status" });
  const tools = TOOLS.map(({ kind, name, key }) =>
    choice(`${group}-tool`, name, `${name} (${key})`, [], kind === state.tool, () => (state.tool = kind)),
  );
  const chooser = classes.map((name, k) => {
    const swatch = element("i", { className: "swatch" });
    swatch.style.background = `rgb(${colors[k].join()})`;
    const title = k < 9 ? `${name} (${k + 1})` : name;
    return choice(`${group}-class`, name, title, [swatch], k === state.class, () => (state.class = k));
  });
  const [widthLabel, widthInput] = slider("width", "width of strokes, in pixels of the image ([ and ])",
    { min: 1, max: 40, value: state.width }, (value) => (state.width = value));
  const [opacityLabel, opacityInput] = slider("prediction", "how strongly the prediction shows (p)",
    { min: 0, max: 100, value: 50 }, (value) => { painter.opacity = value / 100; paint(); });
  const button = (text, title, onClick) => {
    const made = element("button", { type: "button", title }, text);
    made.addEventListener("click", onClick);
    return made;
  };
  const root = element("div", { className: "semiseg-canvas", dataset: { lmSuppressShortcuts: "true" } },
    element("div", { className: "bar", role: "toolbar", ariaLabel: "tools" }, ...tools, widthLabel,
      button("Undo", "Undo (z)", undo),
      button("‹", "the image before (left)", () => go(-1)), button("›", "the next image (right)", () => go(1))),
    element("div", { className: "bar", role: "toolbar", ariaLabel: "classes" }, ...chooser, opacityLabel),
    canvas, status, element("p", { className: "help" }, HELP));
  el.append(root);

  const waits = () => !shapes.here || names[model.get("index")] !== shapes.here.name;
  const paint = () => painter.paint(state.making ? [...shapes.all, state.making] : shapes.all, state.prediction);
  function tell() {
    const count = (kind, one) => {
      const found = shapes.all.filter((shape) => shape.kind === kind).length;
      return `${found} ${one}${found === 1 ? "" : one === "box" ? "es" : "s"}`;
    };
    const drawn = [count("stroke", "stroke"), count("point", "click"), count("box", "box")].join(", ");
    const index = model.get("index");
    status.textContent = `Image ${index + 1} of ${names.length}, ${names[index]}: ${waits() ? "loading" : drawn}`;
    canvas.ariaLabel = status.textContent;
  }
  function keep() {
    const { name, version } = shapes.here; // another image may be on its way
    model.set("drawn", { name, version, shapes: shapes.all });
    model.save_changes();
    paint();
    tell();
  }
  function undo() {
    if (!waits() && shapes.undo()) keep();
  }
  function go(by) {
    model.set("index", (model.get("index") + by + names.length) % names.length);
    model.save_changes();
    tell();
  }
  async function showImage() {
    const shown = model.get("shown");
    const image = await pictureOf(shown.image, "image/jpeg");
    if (shown !== model.get("shown")) return; // another one came meanwhile
    Object.assign(state, { making: null, prediction: null });
    shapes.open(shown, model.get("drawn"));
    painter.fit(shown.size, image);
    await showPrediction();
    tell();
  }
  async function showPrediction() {
    const found = model.get("prediction");
    const has = found && found.name === model.get("shown").name;
    state.prediction = has ? await pictureOf(found.picture, "image/png") : null;
    opacityInput.disabled = !has;
    paint();
  }

  function follow() {
    shapes.follow(model.get("drawn"));
    paint();
    tell();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const [height, width] = painter.size;
    const within = (value, end) => Math.round(100 * Math.min(Math.max(value, 0), end)) / 100;
    return [within(((event.clientY - box.top) / box.height) * height, height),
      within(((event.clientX - box.left) / box.width) * width, width)];
  }
  function erase(at) {
    const reach = (8 * painter.unit) / painter.scale;
    const near = shapes.all.filter((shape) => distance(shape, at) <= reach);
    if (!near.length) return;
    shapes.change(shapes.all.filter((shape) => shape !== near[near.length - 1]));
    keep();
  }
  canvas.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button !== 0 || waits() || !painter.image) return;
    event.preventDefault();
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    const at = place(event);
    if (state.tool === "erase") return erase(at);
    state.making = { kind: state.tool, class: state.class, places: state.tool === "box" ? [at, at] : [at] };
    if (state.tool === "stroke") state.making.width = state.width;
    paint();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (!state.making || !event.isPrimary) return;
    const events = event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    const places = (events.length ? events : [event]).map(place);
    if (state.making.kind === "stroke") {
      for (const at of places) {
        const last = state.making.places[state.making.places.length - 1];
        if (Math.hypot(at[0] - last[0], at[1] - last[1]) * painter.scale >= 1) state.making.places.push(at);
      }
    } else {
      const at = places[places.length - 1];
      state.making.places = state.making.kind === "box" ? [state.making.places[0], at] : [at];
    }
    paint();
  });
  canvas.addEventListener("pointerup", (event) => {
    const made = state.making;
    if (!made || !event.isPrimary) return;
    state.making = null;
    const sides = made.places.length > 1 ? made.places[0].map((value, i) => Math.abs(value - made.places[1][i])) : [];
    if (made.kind === "box" && Math.min(...sides) < 1) return paint(); // a box without area is a slip
    shapes.change([...shapes.all, made]);
    keep();
  });
  canvas.addEventListener("pointercancel", () => {
    state.making = null;
    paint();
  });

  function press(list, number) {
    const input = list[number] && list[number].querySelector("input");
    if (input) input.click();
    return Boolean(input);
  }
  function nudge(input, by) {
    input.value = Number(input.value) + by;
    input.dispatchEvent(new Event("input"));
    return true;
  }
  function hears(key, held) {
    if (key === "z") return undo(), true;
    if (held) return false;
    if (key === "ArrowLeft" || key === "ArrowRight") return go(key === "ArrowLeft" ? -1 : 1), true;
    if (key === "[" || key === "]") return nudge(widthInput, key === "[" ? -1 : 1);
    if (key === "p") return nudge(opacityInput, Number(opacityInput.value) ? -100 : 50);
    if (/^[1-9]$/.test(key)) return press(chooser, Number(key) - 1);
    return press(tools, TOOLS.findIndex((tool) => tool.key === key));
  }
  root.addEventListener("keydown", (event) => {
    const arrow = event.key.startsWith("Arrow") && event.target !== canvas; // moves within radio buttons and sliders
    if (event.altKey || arrow) return;
    const heard = hears(event.key, event.ctrlKey || event.metaKey);
    if (heard) event.preventDefault();
    if (heard) event.stopPropagation(); // a notebook has shortcuts of its own
  });

  model.on("change:shown", showImage);
  model.on("change:prediction", showPrediction);
  model.on("change:drawn", follow);
  const resized = new ResizeObserver(paint);
  resized.observe(canvas);
  tell();
  showImage();
  return () => {
    resized.disconnect();
    model.off("change:shown", showImage);
    model.off("change:prediction", showPrediction);
    model.off("change:drawn", follow);
  };
}

export default { render };
