// Values along the three lines through the crosshair: how steep edges are, and whether they lie apart.

const LINE_COLOURS = { source: "#6cb2ff", target: "#f2f2f2" };
const METHOD_COLOURS = ["#ff9a3d", "#7ee787", "#d2a8ff", "#ff7b72", "#39c5cf", "#e3b341"];
const LINE_WORDS = ["feet to head", "front to back", "right to left"];

// Panels that share a window can share a chart: prediction, target, and a source in the same unit.
function linePanels() {
  return shown.panels.filter((panel) => panel.window === "image");
}

function lineColour(panel) {
  const method = methodsOf(shown.panels).indexOf(panel.method);
  return LINE_COLOURS[panel.kind] || METHOD_COLOURS[method % METHOD_COLOURS.length];
}

function buildLines() {
  const names = linePanels().map((panel) => {
    const name = make("b", {}, `${panel.title} `);
    name.style.color = lineColour(panel);
    return name;
  });
  const legend = make("p", {}, "Along the lines through the crosshair: ", ...names);
  const charts = [2, 1, 0].filter((axis) => shown.view.shape[axis] > 1).map((axis) =>
    make("div", {}, make("canvas", { role: "img", dataset: { axis } }), `${AXES[axis]}, ${LINE_WORDS[axis]}`));
  $("lines").replaceChildren(legend, ...charts);
}

function drawLines() {
  $("lines").querySelectorAll("canvas").forEach((canvas) => drawLine(canvas, Number(canvas.dataset.axis)));
}

function drawLine(canvas, axis) {
  const { shape } = shown.view, strides = [shape[1] * shape[2], shape[2], 1], n = shape[axis];
  const first = shown.at.reduce((sum, at, other) => sum + (other === axis ? 0 : at * strides[other]), 0);
  const curves = linePanels().map((panel) =>
    [panel, Array.from({ length: n }, (_, i) => panel.values[first + i * strides[axis]])]);
  const values = curves.flatMap(([, line]) => line);
  const low = Math.min(...values), high = Math.max(...values, low + 1e-6), unit = devicePixelRatio;
  const { width, height } = fitCanvas(canvas), context = canvas.getContext("2d");
  const across = (i) => ((i + 0.5) / n) * width;
  const down = (value) => height - 3 * unit - ((value - low) / (high - low)) * (height - 6 * unit);
  context.lineWidth = unit;
  context.strokeStyle = "rgba(255, 211, 61, .6)";
  context.strokeRect(across(shown.at[axis]), -9, 0, height + 18);
  for (const [panel, line] of curves) {
    context.strokeStyle = lineColour(panel);
    context.lineWidth = 1.4 * unit;
    context.beginPath();
    line.forEach((value, i) => context.lineTo(across(i), down(value)));
    context.stroke();
  }
  context.font = `${11 * unit}px system-ui, sans-serif`;
  context.fillStyle = "#aab4bf";
  context.fillText(`${digits(high)} ${shown.view.unit}`, 4 * unit, 12 * unit);
  context.fillText(`${digits(low)} ${shown.view.unit}`, 4 * unit, height - 4 * unit);
  canvas.ariaLabel = `values along ${AXES[axis]}, ${digits(low)} to ${digits(high)} ${shown.view.unit}`;
}
