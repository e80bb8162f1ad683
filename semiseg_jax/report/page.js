// Plots say what they show under the pointer or, with the arrow keys, point by point.
for (const figure of document.querySelectorAll("figure.plot")) {
  const points = JSON.parse(figure.querySelector("script").textContent);
  if (!points.length) continue;
  const svg = figure.querySelector("svg"), said = figure.querySelector(".said");
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "circle");
  mark.setAttribute("r", 5); mark.setAttribute("fill", "none"); mark.setAttribute("stroke", "currentColor");
  mark.setAttribute("stroke-width", 2); mark.setAttribute("visibility", "hidden"); svg.append(mark);
  let chosen = -1;
  const show = (number) => {
    chosen = Math.max(0, Math.min(points.length - 1, number));
    const [x, y, text] = points[chosen];
    mark.setAttribute("cx", x); mark.setAttribute("cy", y); mark.setAttribute("visibility", "visible");
    said.textContent = text;
  };
  svg.addEventListener("pointermove", (event) => {
    const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
    const far = points.map(([x, y]) => Math.hypot(x - at.x, y - at.y));
    show(far.indexOf(Math.min(...far)));
  });
  figure.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (step) { event.preventDefault(); show(chosen + step); }
  });
}
// A slider fades from one picture of an image to the next; an arrow key goes to the next one at once.
for (const panel of document.querySelectorAll("figure.panel")) {
  const slider = panel.querySelector("input"), pictures = panel.querySelectorAll("img"), view = panel.querySelector(".view");
  const show = () => {
    const at = Number(slider.value);
    pictures.forEach((picture, number) => { if (number) picture.style.opacity = Math.max(0, Math.min(1, at - number + 1)); });
    view.textContent = pictures[Math.round(at)].alt;
    slider.setAttribute("aria-valuetext", view.textContent);
  };
  slider.addEventListener("input", show);
  slider.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step) { event.preventDefault(); slider.value = Math.round(Number(slider.value)) + step; show(); }
  });
  show();
}
