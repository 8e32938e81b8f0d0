// The viewer: one case at a time, its panels in up to three planes that move together.

const $ = (id) => document.getElementById(id);

function make(tag, { dataset = {}, ...properties } = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  Object.assign(element.dataset, dataset);
  element.append(...children);
  return element;
}

const HU_WINDOWS = {  // low and high; the usual widths and levels
  "soft tissue": [-160, 240], lung: [-1350, 150], bone: [-500, 1300], brain: [0, 80],
};

const COLUMN_ORDER = ["source", "prediction", "target", "error", "uncertainty"];
const STACK_ORDER = ["target", "prediction", "source", "error", "uncertainty"];
const BONE = "bone beside";  // button and window of the second look at CTs
const NARROWEST = 170;  // pixels of a column

// What the user has chosen; it stays from case to case.
const chosen = {
  planes: null, panels: {}, active: "axial",
  crosshair: true, smooth: true, outline: false, flicker: false,
};
let shown = null;  // the open case: view, panels, windows, at (z, y, x), zoom, centre in mm
let cells = [];  // the canvases on the stage
let opening = 0;  // only the case asked for last is shown

async function openCase(number) {
  const ticket = ++opening;
  const source = $(`case-${number}`);
  const view = JSON.parse(source.textContent);
  announceCase(number, view);
  if (typeof DecompressionStream === "undefined") {
    showMessage("This browser is too old for the pictures: Chrome or Edge 80, Firefox 119 or Safari 16.4 are needed.");
    return;
  }
  showMessage("unpacking the pictures ...");
  const volumes = [];
  for (const picture of view.pictures) {
    await new Promise((done) => setTimeout(done));  // lets the page breathe between volumes
    volumes.push(await decodeVolume(picture.packed, view.shape));
    if (ticket !== opening) return;
  }
  const mask = await decodeMask(view.mask, view.shape);
  if (ticket !== opening) return;
  const panels = panelsOf(view, volumes), several = methodsOf(panels).length > 1;
  chosen.planes = chosen.planes || new Set(several ? ["axial"] : Object.keys(PLANES));
  const windows = Object.fromEntries(panels.map((panel) => [panel.window, panel.auto]));
  if (shown && shown.view.unit === "HU" && view.unit === "HU") {  // one scale: what was chosen stays
    for (const name of ["image", "error"]) windows[name] = shown.windows[name] || windows[name];
  }
  shown = { number, view, mask, panels, windows, several, worst: 0 };
  resetPlace();
  buildTools();
  buildStage();
  $("viewer").dataset.ready = number;
}

function announceCase(number, view) {
  delete $("viewer").dataset.ready;
  $("case-title").textContent = view.identifier;
  $("charts-of").textContent = `: ${view.identifier}`;
  for (const part of document.querySelectorAll(".per-case")) part.hidden = Number(part.dataset.case) !== number;
  selectRow(number);
  const order = caseOrder(), place = order.indexOf(number);
  $("previous").disabled = place === 0;
  $("next").disabled = place === order.length - 1;
}

// Every volume, and the error of every prediction that has a target, in the order of the columns.
function panelsOf(view, volumes) {
  const target = volumes[view.pictures.findIndex((picture) => picture.kind === "target")];
  const several = view.pictures.filter((picture) => picture.kind === "prediction").length > 1;
  const panels = view.pictures.map((picture, i) => {
    const { title, kind, method } = picture;
    const isImage = kind === "prediction" || kind === "target", isSpread = kind === "uncertainty";
    const shared = isImage || (kind === "source" && picture.hounsfield && view.unit === "HU");
    const fitted = [isSpread ? 0 : picture.low, picture.high];
    return {
      title, kind, method, values: volumes[i], unit: isSpread || shared ? view.unit : "",
      colours: isSpread ? "spread" : "grey", window: isSpread ? kind : shared ? "image" : title,
      auto: shared && view.unit === "HU" ? HU_WINDOWS["soft tissue"] : fitted, fitted,
    };
  });
  for (const { title, method, values } of panels.filter((panel) => target && panel.kind === "prediction")) {
    const fitted = [-view.error_limit, view.error_limit];
    panels.push({
      title: several ? `${title}: error` : "error", kind: "error", method, values, minus: target,
      unit: view.unit, colours: "signed", window: "error", auto: fitted, fitted,
    });
  }
  for (const panel of panels.filter((one) => one.window === "image" && one.kind !== "source" && view.unit === "HU")) {
    const bone = HU_WINDOWS.bone;  // a second window beside the first, on request
    panels.push({ ...panel, title: `${panel.title}, bone`, window: BONE, auto: bone, fitted: bone });
  }
  panels.sort((a, b) => COLUMN_ORDER.indexOf(a.kind) - COLUMN_ORDER.indexOf(b.kind));
  const all = { error: "errors", uncertainty: "uncertainties" };
  for (const panel of panels) {  // a method has one button, and so have all errors
    const own = panel.window === BONE ? BONE : several && panel.method ? all[panel.kind] : panel.title;
    panel.buttons = [several && panel.method, own].filter(Boolean);
  }
  return panels;
}

function methodsOf(panels) {
  return [...new Set(panels.filter((panel) => panel.kind === "prediction").map((panel) => panel.method))];
}

function resetPlace() {
  const { view } = shown;
  shown.zoom = 1;
  shown.centre = view.middle.slice();
  shown.at = view.worst.length ? view.worst[0].at.slice() : view.shape.map((n) => n >> 1);
}

// What a panel shows while b is held: the target and the (first) prediction change places, and the
// target stands in the place of every other prediction.
function swapped(panel) {
  const other = { prediction: "target", target: "prediction" }[panel.kind];
  return chosen.flicker && other && shown.panels.find((one) => one.kind === other);
}

// At first all buttons are pressed but those of further sources, several methods' uncertainties, bone.
function isPressed(name) {
  if (name in chosen.panels) return chosen.panels[name];
  const sources = shown.panels.filter((panel) => panel.kind === "source").map((panel) => panel.title);
  return name !== "uncertainties" && name !== BONE && !sources.slice(1).includes(name);
}

function visiblePanels() {
  const some = shown.panels.filter((panel) => panel.buttons.every(isPressed));
  return some.length ? some : shown.panels.slice(0, 1);
}

// A plane that is one voxel thin shows nothing.
function visiblePlanes() {
  const thick = Object.keys(PLANES).filter((name) => {
    const { down, right } = PLANES[name];
    return Math.min(shown.view.shape[down], shown.view.shape[right]) > 1;
  });
  const some = thick.filter((name) => chosen.planes.has(name));
  return some.length ? some : thick.slice(0, 1);
}

// Columns of panels. Side by side if one method's panels have room for it; else a stack a method, its
// error below its prediction, beside the target above the sources: the target stays next to them.
function columnsOf(panels, width) {
  if (!shown.several && width >= panels.length * NARROWEST) return panels.map((panel) => [panel]);
  const stacks = new Map();
  const inOrder = [...panels].sort((a, b) => STACK_ORDER.indexOf(a.kind) - STACK_ORDER.indexOf(b.kind));
  for (const method of ["", ...methodsOf(shown.panels)]) {
    const stack = inOrder.filter((panel) => panel.method === method);
    if (stack.length) stacks.set(method, stack);
  }
  return [...stacks.values()];
}

// Lay canvases out: for each plane as many rows as the highest stack has panels; the planes of a
// single panel side by side.
function buildStage() {
  const stage = $("stage"), planes = visiblePlanes(), { extent } = shown.view;
  const columns = columnsOf(visiblePanels(), stage.clientWidth);
  const n = columns.length, lines = Math.max(...columns.map((stack) => stack.length));
  const across = n * lines === 1 && stage.clientWidth >= planes.length * NARROWEST;
  const wide = Math.max(stage.clientWidth / (across ? planes.length : n), NARROWEST) - 8;
  const above = stage.getBoundingClientRect().top - $("viewer").getBoundingClientRect().top;
  const heads = lines > 1 ? lines * planes.length : 1;
  const room = innerHeight - above - 44 * planes.length - 44 * heads;
  shown.fit = Math.min(
    wide / Math.max(...planes.map((plane) => extent[PLANES[plane].right])),
    Math.max(330, 110 * planes.length * lines, room) / lines
      / planes.map((plane) => extent[PLANES[plane].down]).reduce((a, b) => (across ? Math.max(a, b) : a + b)));
  const { panel: focused, plane: focusedPlane } = document.activeElement.dataset;
  stage.replaceChildren();
  pointers.clear();  // what was pressed on the old canvases
  stage.className = across ? "across" : "";
  stage.style.gridTemplateColumns = `repeat(${across ? planes.length : n}, minmax(${NARROWEST - 8}px, 1fr))`;
  cells = [];
  for (const plane of planes) {
    const height = Math.max(90, extent[PLANES[plane].down] * shown.fit);
    for (let line = 0; line < lines; line++) {
      const row = columns.map((stack) => stack[line]);
      if (plane === planes[0] || lines > 1 || across) stage.append(...row.map(headOf));
      stage.append(...row.map((panel, i) => cellOf(panel, plane, height, i === 0 && !across)));
    }
    stage.append(travelOf(plane, across ? wide : stage.clientWidth));
  }
  const again = cells.find(({ panel, plane }) => panel.title === focused && plane === focusedPlane);
  if (again) again.canvas.focus({ preventScroll: true });
  refresh();
}

function headOf(panel, column) {
  if (!panel) return make("div");
  const scale = make("div", { className: "scale" }, make("em"), make("i", { className: panel.colours }), make("em"));
  const className = column ? "head" : "head first";
  return make("div", { className, dataset: { title: panel.title } }, make("b"), " ", make("span"), scale);
}

function cellOf(panel, plane, height, isFirst) {
  if (!panel) return make("div");
  const className = isFirst ? "slice first" : "slice", dataset = { plane, panel: panel.title };
  const canvas = make("canvas", { className, dataset, tabIndex: 0, role: "img" });
  canvas.style.height = `${Math.round(height)}px`;
  const cell = { canvas, panel, plane };
  listenTo(cell);
  cells.push(cell);
  return canvas;
}

// A slider through the slices.
function travelOf(plane, width) {
  const axis = PLANES[plane].through, n = shown.view.shape[axis];
  const slider = make("input", { type: "range", min: 0, step: 1, max: n - 1, ariaLabel: `${plane} slice` });
  slider.addEventListener("input", () => moveTo(axis, Number(slider.value), plane));
  const row = make("div", { className: "travel", dataset: { plane } }, make("span"), slider);
  row.style.width = `${width}px`;
  return row;
}

function moveTo(axis, index, plane) {
  shown.at[axis] = Math.min(shown.view.shape[axis] - 1, Math.max(0, index));
  if (plane) chosen.active = plane;
  refresh();
}

let waiting = false;
function refresh() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    cells.forEach(drawCell);
    document.querySelectorAll(".head").forEach(updateHead);
    document.querySelectorAll(".travel").forEach(updateTravel);
    updateTools();
    showValues(shown.at);
    Object.assign($("viewer").dataset, { at: shown.at.join(), image: shown.windows.image.join() });
  });
}

function drawCell(cell) {
  const { canvas, panel, plane } = cell, { view } = shown;
  const scale = shown.fit * shown.zoom * devicePixelRatio;
  fitCanvas(canvas);
  const context = canvas.getContext("2d");
  const { values, minus } = swapped(panel) || panel;
  const at = shown.at[PLANES[plane].through];
  const mask = panel.kind === "error" && shown.mask;  // what lies outside does not count
  const slice = sliceCanvas(values, minus, mask, view.shape, plane, at, shown.windows[panel.window], panel.colours);
  cell.place = placement(canvas, plane, view.shape, view.spacing, scale, shown.centre);
  const { left, top, across, below } = cell.place;
  context.imageSmoothingEnabled = chosen.smooth;
  context.imageSmoothingQuality = "high";
  context.drawImage(slice, left, top, slice.width * across, slice.height * below);
  if (chosen.outline) drawOutline(context, cell.place, plane, view.shape, shown.at, shown.mask);
  if (chosen.crosshair) drawCross(context, cell.place, plane, view.shape, shown.at);
  drawMarks(context, plane, scale);
  canvas.ariaLabel = `${panel.title}, ${plane} slice ${fileVoxel(PLANES[plane].through, at)}`;
}

function updateHead(head) {
  const panel = shown.panels.find((one) => one.title === head.dataset.title);
  const [low, high] = shown.windows[panel.window];
  const [title, words] = head.children, [from, to] = head.querySelectorAll("em");
  title.textContent = swapped(panel) ? swapped(panel).title.toUpperCase() : panel.title;
  words.textContent = panel.kind === "error" ? "prediction - target" : panel.colours === "grey" ? `W ${digits(high - low)} L ${digits((low + high) / 2)}` : "";
  from.textContent = digits(low);
  to.textContent = `${panel.kind === "error" ? "+" : ""}${digits(high)} ${panel.unit}`;
}

function updateTravel(row) {
  const axis = PLANES[row.dataset.plane].through, at = shown.at[axis];
  const words = `${row.dataset.plane} ${AXES[axis]} ${fileVoxel(axis, at)} of ${fileVoxel(axis, shown.view.shape[axis] - 1)}`;
  const [label, slider] = row.children;
  slider.value = at;
  slider.ariaValueText = words;
  label.textContent = words;
}

// The voxel's number from 0 on the file's grid, seen in LPS; the first where several were stored as one.
function fileVoxel(axis, index) {
  return index * shown.view.factors[axis];
}

// The panels whose values stand above the stage: of one method all, of several those that are shown.
function readPanels() {
  const panels = shown.several ? visiblePanels() : shown.panels;
  return columnsOf(panels.filter((panel) => panel.window !== BONE), Infinity).flat();
}

// DICOM patient coordinates (x, y, z) of a voxel's middle: to the left, the back, the head.
function patientPlace(voxel) {
  const { origin, steps } = shown.view;
  return origin.map((mm, i) => (mm + voxel.reduce((sum, at, axis) => sum + at * steps[axis][i], 0)).toFixed(1)).join(", ");
}

// What stands under the pointer, or at the crosshair.
function showValues(voxel) {
  const [z, y, x] = voxel, { view } = shown;
  const index = (z * view.shape[1] + y) * view.shape[2] + x;
  const place = [2, 1, 0].map((axis) => `${AXES[axis]} ${fileVoxel(axis, voxel[axis])}`).join(" ");
  const outside = shown.mask[index] ? "" : " (outside the mask)";
  const words = [make("span", {}, `voxel ${place}, at (${patientPlace(voxel)}) mm${outside}`)];
  for (const panel of readPanels()) {
    const { kind, title, values, minus, unit } = panel, value = values[index] - (minus ? minus[index] : 0);
    const number = make("b", {}, (kind === "error" && value > 0 ? "+" : "") + digits(value, unit));
    words.push(make("span", {}, `${kind === "error" ? kind : title} `, number, ` ${unit}`));
  }
  $("readout").replaceChildren(...words);
}

function showMessage(text) {
  $("readout").textContent = text;
}

function digits(value, unit = "") {
  if (unit === "HU" || Math.abs(value) >= 1000) return String(Math.round(value));
  return String(Number(value.toPrecision(3)));
}
